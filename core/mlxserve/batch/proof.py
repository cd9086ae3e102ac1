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

EXACT, ROUGH = 1e-3, 0.05
"""Largest difference, as a share of the logits' range, in float32 and in half precision."""

PROMPTS: Final = ((1, 2, 3, 4, 5, 6), (7, 8, 9), (11, 12, 13, 14, 15, 16, 17, 18, 19, 20))
FOLLOWING: Final = (3, 5, 4, 9, 6, 8, 2)
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


def probes_of(model: CausalModel, vocab: int, length: int | None) -> list[Probe]:
    """Return rows of different lengths; two of them pass ``length``.

    Raises:
        Exception: Whatever mlx-lm raises: then the model works with nobody.
    """
    prompts = list(PROMPTS)
    if length is not None:
        prompts[1:] = [tuple(1 + n % 23 for n in range(length + more)) for more in (29, 7)]
    return [_probe(model, tuple(t % vocab for t in (*p, *FOLLOWING)), len(p) - 1) for p in prompts]


def _probe(model: CausalModel, tokens: tuple[int, ...], head: int) -> Probe:
    caches = make_prompt_cache(model)
    rows = [model(mx.array([tokens[:head]]), cache=caches)[0]]
    rows += [model(mx.array([[token]]), cache=caches)[0] for token in tokens[head:]]
    wanted = mx.concatenate(rows)
    mx.eval(wanted)
    return Probe(tokens, head, wanted)


def alone(store: RowStore, probes: Sequence[Probe]) -> list[Probe]:
    """Return the probes with the logits that each has for itself: what a codec loses is in them."""
    found = []
    for probe in probes:
        row, head, logits = store.open(), probe.prompt, []
        if not store.room(row, len(probe.tokens)):
            raise MemoryError("no room for the proof's rows")
        logits.append(store.prefill([Chunk(row, probe.tokens[:head])])[0])
        store.join(row)
        for token in probe.tokens[head:]:
            logits.append(store.decode(mx.array([token], mx.int32)))
        wanted = mx.concatenate(logits)
        mx.eval(wanted, store.pending([row]))
        store.close(row)
        found.append(Probe(probe.tokens, head, wanted))
    return found


def mismatch(store: RowStore, probes: Sequence[Probe]) -> str | None:
    """Run the probes; return what is wrong, if anything is."""
    for probe in probes:
        probe.row, probe.done = None, 0
    try:
        worst = _Proof(store).run(probes)
    except Exception as error:  # any model code may raise anything; the next layout is tried
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    limit = EXACT if probes[0].wanted.dtype == mx.float32 else ROUGH
    return None if worst <= limit else f"logits differ from mlx-lm's by {worst:.2g} of their range"


def stops_midway(store: RowStore, probes: Sequence[Probe]) -> bool:
    """Return whether recurrent layers can keep a part of a pass.

    In float32 by the logits; in half precision a layer that takes all tokens, whatever it is told,
    may be near enough, so that the distance is held against that of having kept them all.
    """
    probe = probes[0]
    limit = EXACT if probe.wanted.dtype == mx.float32 else ROUGH
    try:
        off, kept_all = (_after_stop(store, probe, kept) for kept in (1, WIDTH))
    except Exception:  # any model code may raise anything: then they cannot
        return False
    return off <= EXACT or (off <= limit and off <= 0.1 * kept_all)


def _after_stop(store: RowStore, probe: Probe, kept: int) -> float:
    """Keep one of three tokens, tell the layers to keep ``kept``; return how far off the next is."""
    proof = _Proof(store)
    probe.done = 0
    proof.join(probe)
    proof.room(probe, probe.done + WIDTH)
    tokens = mx.array([[probe.tokens[probe.done], 1, 2]], mx.int32)
    store.verify(tokens)
    mx.eval(store.commit(tokens, mx.array([kept], mx.int32)))
    assert probe.row is not None
    probe.row.length += 1
    probe.done += 1
    proof.worst = 0.0
    proof.decode([probe])
    store.close(probe.row)
    return proof.worst


@define(eq=False)
class _Proof:
    store: RowStore
    worst: float = 0.0

    def run(self, probes: Sequence[Probe]) -> float:
        """Let the rows do everything that served ones do; return the worst difference."""
        first, second, third = probes
        self.join(first)
        self.decode([first])
        half = max(third.prompt // 2, 1)
        if self.store.exclusive_prefill:
            self.join(second)
            self.decode([first, second])
            self.join(third, chunk=half)
        else:
            self.join_both(second, third, half)
        self.decode(probes)
        if self.store.drafts_fit:
            self._verify(probes, kept=(3, 1, 2))
            self.decode(probes)
        self._leave(first)
        self.decode([third, second])
        for probe in (second, third):
            self._leave(probe)
        return self.worst

    def join(self, probe: Probe, *, chunk: int = 0) -> None:
        """Prefill a row, in chunks, and let it decode."""
        row = probe.row = self.store.open()
        self.room(probe, probe.prompt)
        size = chunk or probe.prompt
        for at in range(0, probe.prompt, size):
            tokens = probe.tokens[at : min(at + size, probe.prompt)]
            logits = self.store.prefill([Chunk(row, tokens)])
            self._compare(logits[0, -1], probe.wanted[at + len(tokens) - 1])
        mx.eval(self.store.pending([row]))
        self.store.join(row)
        probe.done = probe.prompt

    def join_both(self, short: Probe, long: Probe, half: int) -> None:
        """Prefill one row and a part of another in one pass, then the rest."""
        for probe in (short, long):
            probe.row = self.store.open()
            self.room(probe, probe.prompt)
        assert short.row is not None
        assert long.row is not None
        heads = [Chunk(short.row, short.tokens[: short.prompt]), Chunk(long.row, long.tokens[:half])]
        logits = self.store.prefill(heads)
        for at, (probe, chunk) in enumerate(zip((short, long), heads, strict=True)):
            last = len(chunk.tokens) - 1
            self._compare(logits[at, last], probe.wanted[last])
        logits = self.store.prefill([Chunk(long.row, long.tokens[half : long.prompt])])
        self._compare(logits[0, -1], long.wanted[long.prompt - 1])
        mx.eval(self.store.pending([short.row, long.row]))
        for probe in (short, long):
            assert probe.row is not None
            self.store.join(probe.row)
            probe.done = probe.prompt

    def room(self, probe: Probe, tokens: int) -> None:
        """Make room, or fail."""
        if probe.row is None or not self.store.room(probe.row, tokens):
            raise MemoryError("no room for the proof's rows")

    def _in_order(self, probes: Sequence[Probe]) -> list[Probe | None]:
        by_row = {id(probe.row): probe for probe in probes}
        return [None if row is None else by_row[id(row)] for row in self.store.order()]

    def decode(self, probes: Sequence[Probe]) -> None:
        """Run a step; compare each row's logits."""
        for probe in probes:
            self.room(probe, probe.done + 1)
        order = self._in_order(probes)
        tokens = mx.array([p.tokens[p.done] if p else 0 for p in order], mx.int32)
        logits = self.store.decode(tokens)
        for at, probe in enumerate(order):
            if probe is not None:
                self._compare(logits[at], probe.wanted[probe.done])
                probe.done += 1

    def _verify(self, probes: Sequence[Probe], kept: Sequence[int]) -> None:
        for probe in probes:
            self.room(probe, probe.done + WIDTH)
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
