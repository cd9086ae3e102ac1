"""Decode steps: launched on the device, read later, so that host and device overlap."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import cast

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.batch.sequence import Sequence
from mlxserve.batch.store import RowStore
from mlxserve.sampling.batch import SampledRow, SamplerBatch
from mlxserve.sampling.logprobs import PendingLogprobs, pending_logprobs
from mlxserve_hookspecs import TokenLogprob

EMPTY = SampledRow()


@frozen
class Read:
    """What a step gave one sequence.

    Attributes:
        sequence: The sequence.
        tokens: Its next tokens, at least one.
        logprobs: One for each, if asked for.
        drafted: Draft tokens that were verified for it.
    """

    sequence: Sequence
    tokens: Items[int]
    logprobs: Items[TokenLogprob | None]
    drafted: int = 0


@frozen(eq=False)
class Launched:
    """A decode step on its way.

    Attributes:
        sequences: Whose row is in each slot of the batch; ``None`` runs unused.
        tokens: ``[rows]`` int32.
        logprobs: For the rows that ask.
    """

    sequences: tuple[Sequence | None, ...]
    tokens: mx.array
    logprobs: PendingLogprobs | None

    def read(self) -> list[Read]:
        """Wait for the step; return each sequence's token."""
        tokens = cast(list[int], self.tokens.tolist())
        found: Mapping[int, TokenLogprob] = {} if self.logprobs is None else self.logprobs.read()
        pairs = enumerate(zip(self.sequences, tokens, strict=True))
        return [Read(s, [token], [found.get(at)]) for at, (s, token) in pairs if s is not None]


@define(eq=False)
class Decoder:
    """Launches one token for every decoding row."""

    store: RowStore
    vocab: int
    _sampler: SamplerBatch | None = None
    _signature: tuple[object, ...] = ()
    _last: Launched | None = None
    _unread: bool = field(default=False)

    def must_read_first(self, decoding: Items[Sequence]) -> bool:
        """Whether the next step depends on tokens that are still in flight.

        A constraint's mask does; so do penalties when the batch changes, because what each row
        generated so far is then counted anew.
        """
        if not self._unread:
            return False
        if any(s.constraint is not None for s in decoding):
            return True
        penalised = any(s.request.sampling.penalised for s in decoding)
        return penalised and self._sign(self._slots(decoding)) != self._signature

    def launch(self, decoding: Items[Sequence]) -> Launched | None:
        """Start the next step; return it, or ``None`` when nobody decodes."""
        if not decoding:
            return None
        slots = self._slots(decoding)
        signature = self._sign(slots)
        changed = signature != self._signature
        if changed or self._sampler is None or any(s.constraint for s in decoding):
            self._sampler = SamplerBatch(
                [s.sampled_row() if s else EMPTY for s in slots], self.vocab
            )
        tokens = self._inputs(slots, changed)
        logits = self.store.decode(tokens)
        positions = mx.array([s.row.length if s and s.row else 0 for s in slots], mx.int32)
        drawn = self._sampler.sample(logits, positions)
        asked = [(at, s.request.logprobs) for at, s in enumerate(slots) if s]
        wanted = [(at, count) for at, count in asked if count is not None]
        logprobs = pending_logprobs(logits, drawn, wanted)
        mx.async_eval(drawn, *(logprobs.arrays() if logprobs else ()))  # type: ignore[no-untyped-call]
        for sequence in decoding:
            sequence.launched += 1
        self._signature = signature
        self._last, self._unread = Launched(tuple(slots), drawn, logprobs), True
        return self._last

    def was_read(self, step: Launched) -> None:
        """Note that ``step``'s tokens are in their sequences now."""
        if step is self._last:
            self._unread = False

    def reset(self) -> None:
        """Forget the last step: its tokens will not be used."""
        self._last, self._unread, self._sampler, self._signature = None, False, None, ()

    def _slots(self, decoding: Items[Sequence]) -> list[Sequence | None]:
        by_row = {s.row: s for s in decoding}
        return [None if row is None else by_row.get(row) for row in self.store.order()]

    @staticmethod
    def _sign(slots: Items[Sequence | None]) -> tuple[object, ...]:
        return tuple(None if s is None else (s.uid, s.eos_banned, s.preempted) for s in slots)

    def _inputs(self, slots: Items[Sequence | None], changed: bool) -> mx.array:
        if self._last is None or not self._unread:
            return mx.array([0 if s is None else s.tokens[-1] for s in slots], mx.int32)
        if not changed:
            return self._last.tokens
        # Rows that were in the step in flight continue from its tokens, unread.
        before = {id(s): at for at, s in enumerate(self._last.sequences) if s is not None}
        source = [before.get(id(s), -1) if s and s.launched else -1 for s in slots]
        known = mx.array([0 if s is None else s.tokens[-1] for s in slots], mx.int32)
        at = mx.array(source, mx.int32)
        return mx.where(at >= 0, self._last.tokens[mx.maximum(at, 0)], known)
