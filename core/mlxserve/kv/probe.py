"""Prove a layout against mlx-lm: a few probe tokens, both ways, the same logits."""

import math
from collections.abc import Sequence
from typing import Final, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.kv.bucket import Row
from mlxserve.kv.model import CausalModel
from mlxserve.kv.store import BucketStore, Chunk

PROMPTS: Final = ((1, 2, 3, 4, 5, 6), (7, 8, 9))
STEPS: Final = 2
EXACT, ROUGH = 1e-3, 0.05
"""Largest difference, as a share of the logits' range, in float32 and in half precision."""


def reference(model: CausalModel, prompt: Sequence[int], steps: int = STEPS) -> mx.array:
    """Return mlx-lm's logits ``[steps, vocab]`` after ``prompt``, greedy."""
    caches = make_prompt_cache(model)
    if len(prompt) > 1:
        model(mx.array([list(prompt[:-1])]), cache=caches)
    token, rows = prompt[-1], []
    for _ in range(steps):
        rows.append(model(mx.array([[token]]), cache=caches)[0, -1])
        token = cast(int, mx.argmax(rows[-1]).item())
    logits = mx.stack(rows)
    mx.eval(logits)
    return logits


def mismatch(store: BucketStore, expected: Sequence[mx.array]) -> str | None:
    """Run the probe prompts as rows of two buckets; return what is wrong, if anything is."""
    try:
        rows = _open(store)
        tokens = mx.array([prompt[-1] for prompt in PROMPTS], mx.int32)
        worst = 0.0
        for step in range(STEPS):
            logits = store.decode(tokens)
            wanted = mx.stack([e[step] for e in expected])
            worst = max(worst, _distance(logits, wanted))
            tokens = mx.argmax(wanted, axis=-1).astype(mx.int32)
        for row in rows:
            store.close(row)
    except Exception as error:  # any model code may raise anything; the next layout is tried
        return f"{type(error).__name__}: {error}"
    limit = EXACT if expected[0].dtype == mx.float32 else ROUGH
    return None if worst <= limit else f"logits differ from mlx-lm's by {worst:.2g} of their range"


def stops_midway(store: BucketStore, model: CausalModel) -> bool:
    """Return whether recurrent layers can keep one row's first token and another's first three."""
    kept, drafts, last = (1, 3), (11, 12, 13), 14
    try:
        rows = _open(store)
        tokens = mx.array([drafts, drafts], mx.int32)
        store.verify(tokens)
        mx.eval(store.commit(tokens, mx.array(kept, mx.int32)))
        for row, count in zip(rows, kept, strict=True):
            row.length += count
        logits = store.decode(mx.array([last, last], mx.int32))
        whole = [(*p[:-1], *drafts[:n], last) for p, n in zip(PROMPTS, kept, strict=True)]
        wanted = mx.stack([reference(model, tokens, 1)[0] for tokens in whole])
    except Exception:  # any model code may raise anything: then it cannot
        return False
    return _distance(logits, wanted) <= (EXACT if wanted.dtype == mx.float32 else ROUGH)


def _open(store: BucketStore) -> list[Row]:
    rows = []
    for number, prompt in enumerate(PROMPTS):
        rows.append(row := store.open(200 + 200 * number))
        store.prefill([Chunk(row, prompt[:-1])])
        store.join(row)
    return rows


def _distance(ours: mx.array, wanted: mx.array) -> float:
    a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
    span = (b.max(axis=-1) - b.min(axis=-1)).max()
    value = cast(float, (mx.abs(a - b).max() / mx.maximum(span, 1e-30)).item())
    return math.inf if math.isnan(value) else value
