"""Decode steps: launched on the device, read later, so that host and device overlap."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import cast

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.batch.hidden import NOTHING, Sights
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


@frozen(eq=False)
class Begun:
    """A forward pass on its way, whose tokens are not drawn yet.

    Attributes:
        sequences: Whose row is in each place of the batch; ``None`` runs unused.
        logits: ``[places, vocab]``.
        positions: ``[places]``: the position that each token will take.
    """

    sequences: tuple[Sequence | None, ...]
    logits: mx.array
    positions: mx.array


@define(eq=False)
class Decoder:
    """Runs one token for every decoding row: the pass first, then the drawing.

    A pass needs the tokens of the one before on the device only; what is drawn from it may need
    them read: a constraint's mask follows from them. So the device runs a pass while the host reads
    the tokens before it and makes masks, and no row waits for another's.
    """

    store: RowStore
    vocab: int
    sights: Sights = NOTHING
    _sampler: SamplerBatch | None = None
    _sampled: tuple[Sequence | None, ...] = ()
    _signature: tuple[object, ...] = ()
    _last: Launched | None = None
    _unread: bool = field(default=False)

    def begin(self, decoding: Items[Sequence]) -> Begun | None:
        """Start the next pass; return it, or ``None`` when nobody decodes."""
        if not decoding:
            return None
        slots = self._slots(decoding)
        logits = self.store.decode(self._inputs(slots))
        lengths = [s.row.length if s and s.row else 0 for s in slots]
        for sight in self.sights.values():
            starts = [length - 1 for length in lengths]
            sight.ran(slots, starts, [1] * len(slots), self.store.hidden)
        return Begun(slots, logits, mx.array(lengths, mx.int32))

    def draw(self, begun: Begun) -> Launched:
        """Draw a pass's tokens; masks of rows that have any are in their sequences."""
        slots = begun.sequences
        sampler = self._sampler_of(slots)
        masked = [(at, s.masks[0]) for at, s in enumerate(slots) if s and s.masks]
        drawn = sampler.sample(
            begun.logits,
            begun.positions,
            {at: mask for at, mask in masked if mask is not None},
        )
        asked = [(at, s.request.logprobs) for at, s in enumerate(slots) if s]
        wanted = [(at, count) for at, count in asked if count is not None]
        logprobs = pending_logprobs(begun.logits, drawn, wanted)
        mx.async_eval(drawn, *(logprobs.arrays() if logprobs else ()))  # type: ignore[no-untyped-call]
        for sequence in slots:
            if sequence is not None:
                sequence.launched += 1
        self._last, self._unread = Launched(slots, drawn, logprobs), True
        return self._last

    def was_read(self, step: Launched) -> None:
        """Note that ``step``'s tokens are in their sequences now."""
        if step is self._last:
            self._unread = False

    def reset(self) -> None:
        """Forget the last step: its tokens will not be used."""
        self._last, self._unread, self._sampler, self._signature = None, False, None, ()

    def _sampler_of(self, slots: tuple[Sequence | None, ...]) -> SamplerBatch:
        """Return the rows' parameters; of rows that stay, what the device counted stays too."""
        signature = self._sign(slots)
        if self._sampler is None or signature != self._signature:
            before = {id(s): at for at, s in enumerate(self._sampled) if s is not None}
            source = [before.get(id(s), -1) if s else -1 for s in slots]
            rows = [s.sampled_row() if s else EMPTY for s in slots]
            self._sampler = SamplerBatch(rows, self.vocab, self._sampler, source)
            self._signature, self._sampled = signature, slots
        return self._sampler

    def _slots(self, decoding: Items[Sequence]) -> tuple[Sequence | None, ...]:
        by_row = {id(s.row): s for s in decoding}
        return tuple(None if row is None else by_row.get(id(row)) for row in self.store.order())

    @staticmethod
    def _sign(slots: Items[Sequence | None]) -> tuple[object, ...]:
        return tuple(None if s is None else (s.uid, s.eos_banned, s.preempted) for s in slots)

    def _inputs(self, slots: tuple[Sequence | None, ...]) -> mx.array:
        if self._last is None or not self._unread:
            return mx.array([0 if s is None else s.tokens[-1] for s in slots], mx.int32)
        if slots == self._last.sequences:
            return self._last.tokens
        # Rows that were in the step in flight continue from its tokens, unread.
        before = {id(s): at for at, s in enumerate(self._last.sequences) if s is not None}
        source = [before.get(id(s), -1) if s and s.launched else -1 for s in slots]
        known = mx.array([0 if s is None else s.tokens[-1] for s in slots], mx.int32)
        at = mx.array(source, mx.int32)
        return mx.where(at >= 0, self._last.tokens[mx.maximum(at, 0)], known)
