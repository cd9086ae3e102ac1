"""Prove a layout against mlx-lm: rows join, leave, draft and go on; the same logits."""

import math
from collections.abc import Sequence
from typing import Final, cast

import mlx.core as mx
from attrs import define, field
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.batch.store import Chunk, RowStore
from mlxserve.model.causal import CausalModel
from mlxserve.pool.table import Row

EXACT, ROUGH, CODED = 1e-3, 0.05, 0.1
"""Largest difference, as a share of the logits' range: in float32, in half precision, and of a
codec that loses something, which is compared with itself alone."""

PROMPTS: Final = ((1, 2, 3, 4, 5, 6), (7, 8, 9), (11, 12, 13, 14, 15, 16, 17, 18, 19, 20))
FOLLOWING: Final = (3, 5, 4, 9, 6, 8, 2, 7, 5, 3, 9, 4)
"""What the rows go on with: logits are compared, so that any tokens do."""

WIDTH: Final = 3


@define(eq=False)
class Probe:
    """One row of the proof.

    Attributes:
        tokens: All that it will be fed.
        prompt: How many of them are prefilled.
        wanted: mlx-lm's logits after each token.
        row: Its place, while it has one.
        done: Tokens fed so far.
    """

    tokens: tuple[int, ...]
    prompt: int
    wanted: mx.array
    row: Row | None = None
    done: int = field(default=0)


def probes_of(model: CausalModel, window: int | None) -> list[Probe]:
    """Return rows of different lengths; one passes ``window``.

    Raises:
        Exception: Whatever mlx-lm raises: then the model works with nobody.
    """
    prompts = list(PROMPTS)
    if window is not None:
        prompts[2] = tuple(1 + n % 23 for n in range(window + 7))
    return [_probe(model, prompt) for prompt in prompts]


def _probe(model: CausalModel, prompt: tuple[int, ...]) -> Probe:
    tokens = prompt + FOLLOWING
    caches = make_prompt_cache(model)
    head = len(prompt) - 1
    rows = [model(mx.array([tokens[:head]]), cache=caches)[0]]
    rows += [model(mx.array([[token]]), cache=caches)[0] for token in tokens[head:]]
    wanted = mx.concatenate(rows)
    mx.eval(wanted)
    return Probe(tokens, head, wanted)


def mismatch(store: RowStore, probes: Sequence[Probe], limit: float | None = None) -> str | None:
    """Run the probes; return what is wrong, if anything is."""
    for probe in probes:
        probe.row, probe.done = None, 0
    try:
        worst = _Proof(store).run(probes)
    except Exception as error:  # any model code may raise anything; the next layout is tried
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    limit = limit or (EXACT if probes[0].wanted.dtype == mx.float32 else ROUGH)
    return None if worst <= limit else f"logits differ from mlx-lm's by {worst:.2g} of their range"


@define(eq=False)
class _Proof:
    store: RowStore
    worst: float = 0.0

    def run(self, probes: Sequence[Probe]) -> float:
        """Let the rows do everything that served ones do; return the worst difference."""
        first, second, third = probes
        self._join([first])
        self._decode([first])
        self._join([second], together=not self.store.exclusive_prefill)
        self._decode([first, second])
        self._join([third], chunk=max(third.prompt // 2, 1))
        self._decode(probes)
        if self.store.drafts_fit:
            self._verify(probes, kept=(3, 1, 2))
            self._decode(probes)
        self._leave(first)
        self._decode([third, second])
        for probe in (second, third):
            self._leave(probe)
        return self.worst

    def _join(self, probes: Sequence[Probe], *, chunk: int = 0, together: bool = False) -> None:
        del together
        for probe in probes:
            row = probe.row = self.store.open()
            self._room(probe, probe.prompt)
            size = chunk or probe.prompt
            for at in range(0, probe.prompt, size):
                tokens = probe.tokens[at : min(at + size, probe.prompt)]
                logits = self.store.prefill([Chunk(row, tokens)])
                self._compare(logits[0, -1], probe.wanted[at + len(tokens) - 1])
            mx.eval(self.store.pending([row]))
            self.store.join(row)
            probe.done = probe.prompt

    def _room(self, probe: Probe, tokens: int) -> None:
        if probe.row is None or not self.store.room(probe.row, tokens):
            raise MemoryError("no room for the proof's rows")

    def _in_order(self, probes: Sequence[Probe]) -> list[Probe | None]:
        by_row = {id(probe.row): probe for probe in probes}
        return [None if row is None else by_row[id(row)] for row in self.store.order()]

    def _decode(self, probes: Sequence[Probe]) -> None:
        for probe in probes:
            self._room(probe, probe.done + 1)
        order = self._in_order(probes)
        tokens = mx.array([p.tokens[p.done] if p else 0 for p in order], mx.int32)
        logits = self.store.decode(tokens)
        for at, probe in enumerate(order):
            if probe is not None:
                self._compare(logits[at], probe.wanted[probe.done])
                probe.done += 1

    def _verify(self, probes: Sequence[Probe], kept: Sequence[int]) -> None:
        for probe in probes:
            self._room(probe, probe.done + WIDTH)
        order = self._in_order(probes)
        keep = [kept[probes.index(p)] if p else 1 for p in order]
        fed = []
        for probe, count in zip(order, keep, strict=True):
            right = list(probe.tokens[probe.done : probe.done + count]) if probe else [0]
            fed.append([*right, *[1] * (WIDTH - len(right))])
        tokens = mx.array(fed, mx.int32)
        logits = self.store.verify(tokens)
        mx.eval(logits, self.store.commit(tokens, mx.array(keep, mx.int32)))
        for at, (probe, count) in enumerate(zip(order, keep, strict=True)):
            if probe is None or probe.row is None:
                continue
            for n in range(count):
                self._compare(logits[at, n], probe.wanted[probe.done + n])
            probe.row.length += count
            probe.done += count

    def _leave(self, probe: Probe) -> None:
        if probe.row is not None:
            self.store.close(probe.row)

    def _compare(self, ours: mx.array, wanted: mx.array) -> None:
        a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
        value = cast(float, (mx.abs(a - b).max() / mx.maximum(b.max() - b.min(), 1e-30)).item())
        self.worst = max(self.worst, math.inf if math.isnan(value) else value)
