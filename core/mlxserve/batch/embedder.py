"""Vectors of texts: batches of like lengths, run piece by piece, with caches of their own."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from attrs import define, field, frozen
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.batch.sequence import Sequence
from mlxserve.batch.solo import arrays_of
from mlxserve.model.backbone import Backbone, backbone_of
from mlxserve.model.causal import CausalModel
from mlxserve_hookspecs import Pooled, Pooling, RequestError

MOST_ROWS: Final = 64
SHORTEST: Final = 16
"""Texts shorter than this share a class of widths."""

UNFIT: Final = RequestError(
    status=400,
    message="this model's architecture gives no hidden states that its logits could be proved by",
    code="no_hidden_states",
)


@frozen(eq=False)
class Passage:
    """One text of a request.

    Attributes:
        sequence: The request's sequence.
        number: Which of the request's texts, from 0.
        start: Where it begins in the request's prompt.
        length: Its tokens.
    """

    sequence: Sequence
    number: int
    start: int
    length: int

    @property
    def tokens(self) -> list[int]:
        """Its token ids."""
        return self.sequence.tokens[self.start : self.start + self.length]

    @property
    def pooling(self) -> Pooling:
        """What is wanted of it."""
        return pooling_of(self.sequence)

    @property
    def width(self) -> int:
        """The class of widths that it is padded to: steps of an eighth of a power of two."""
        step = max((1 << (self.length - 1).bit_length()) // 8, SHORTEST)
        return -(-self.length // step) * step


@define(eq=False)
class Batch:
    """Passages that run together, padded on the right: what pads them is after all they see.

    Attributes:
        passages: One a row.
        tokens: ``[rows, width]``.
        cache: mlx-lm's, for all rows.
        done: Columns that were run.
        states: ``[rows, size]`` float32: sums of what is pooled so far.
    """

    passages: Items[Passage]
    tokens: mx.array
    cache: Items[Any]
    done: int = 0
    states: mx.array | None = None

    @property
    def alive(self) -> bool:
        """Whether anybody waits for it."""
        return any(passage.sequence.alive for passage in self.passages)

    @property
    def finished(self) -> bool:
        """Whether all of it was run."""
        return self.done >= self.tokens.shape[1]

    def run(self, backbone: Backbone, width: int) -> int:
        """Run the next ``width`` columns; return how many of their tokens are no padding."""
        start, end = self.done, min(self.done + width, self.tokens.shape[1])
        hidden = backbone.body(self.tokens[:, start:end], cache=self.cache)
        mask = mx.array([_pooled(p, start, end) for p in self.passages])[:, :, None]
        part = mx.where(mask, hidden.astype(mx.float32), 0.0).sum(axis=1)
        self.states = part if self.states is None else self.states + part
        self.done = end
        held = [array for cache in self.cache for array in arrays_of(cache.state)]
        mx.async_eval(self.states, held)  # type: ignore[no-untyped-call]
        return sum(max(min(p.length, end) - start, 0) for p in self.passages)

    def read(self, backbone: Backbone) -> Iterator[tuple[Sequence, Pooled]]:
        """Yield each passage's vector; waits for it."""
        assert self.states is not None
        found: list[mx.array] = []
        for passage, state in zip(self.passages, self.states, strict=True):
            pooling = passage.pooling
            if pooling.logits:
                found.append(_logits(backbone, state, pooling.logits))
            else:
                found.append(state / passage.length if pooling.kind == "mean" else state)
        mx.eval(found)
        for passage, vector in zip(self.passages, found, strict=True):
            numbers = np.asarray(vector, "<f4").tobytes()
            yield passage.sequence, Pooled(passage.number, numbers)


@define(eq=False)
class Embedder:
    """Runs one batch at a time, one pass at a time. Engine thread.

    What it holds is bounded: the KV of one batch, which has as many tokens as a prefill pass, or
    of one text that has more.

    Attributes:
        model: The model.
    """

    model: CausalModel
    _backbone: Backbone | None = None
    _sought: bool = False
    _left: dict[int, list[Passage]] = field(factory=dict)
    _turns: dict[int, int] = field(factory=dict)
    _batch: Batch | None = None

    def refusal(self, pooling: Pooling) -> RequestError | None:
        """Return why vectors cannot be had; the first call runs a few short passes."""
        if not self._sought:
            self._backbone, self._sought = backbone_of(self.model), True
        if self._backbone is None or (pooling.logits and self._backbone.head is None):
            return UNFIT
        return None

    def run(
        self, waiting: Items[Sequence], budget: int
    ) -> tuple[int, Mapping[Sequence, list[Pooled]]]:
        """Read the batch that has ended, or run the next pass.

        Args:
            waiting: Whose texts are to be pooled, oldest first: at least one.
            budget: Most tokens of the pass.

        Returns:
            How many tokens were run, and the vectors that came.
        """
        backbone, batch = self._backbone, self._batch
        assert backbone is not None
        found: dict[Sequence, list[Pooled]] = {}
        if batch is not None and batch.states is not None:
            mx.eval(batch.states)  # at most one pass is in flight
        if batch is not None and (batch.finished or not batch.alive):
            self._batch = None
            for sequence, pooled in batch.read(backbone) if batch.finished else ():
                if sequence.alive:
                    found.setdefault(sequence, []).append(pooled)
            batch = None
        if batch is None:
            batch = self._batch = self._next(waiting, budget, together=backbone.together)
        if batch is None:
            return 0, found
        return batch.run(backbone, max(budget // len(batch.passages), 1)), found

    @property
    def running(self) -> list[Sequence]:
        """Whose texts the batch has."""
        return list({p.sequence: None for p in self._batch.passages}) if self._batch else []

    def lose(self) -> list[Sequence]:
        """Forget a batch whose pass failed; return whose texts it had."""
        lost, self._batch = self.running, None
        return lost

    def _next(self, waiting: Items[Sequence], budget: int, *, together: bool) -> Batch | None:
        """Return the next batch: the longest text of who was served least, and others like it."""
        self._note(waiting)
        owners = [s for s in waiting if self._left[s.uid]]
        if not owners:
            return None
        lead = min(owners, key=lambda s: self._turns[s.uid])
        width = self._left[lead.uid][0].width
        rows = min(max(budget // width, 1), MOST_ROWS) if together else 1
        chosen: list[Passage] = []
        for owner in (lead, *(s for s in owners if s is not lead)):
            left = self._left[owner.uid]
            mine = [p for p in left if p.width == width][: rows - len(chosen)]
            if mine:
                taken = {p.number for p in mine}
                self._turns[owner.uid] += 1
                self._left[owner.uid] = [p for p in left if p.number not in taken]
            chosen += mine
        tokens = [[*p.tokens, *[0] * (width - p.length)] for p in chosen]
        return Batch(chosen, mx.array(tokens, mx.int32), make_prompt_cache(self.model))

    def _note(self, waiting: Items[Sequence]) -> None:
        """Learn who is new, longest texts first, and forget who is gone."""
        for gone in self._left.keys() - {s.uid for s in waiting}:
            del self._left[gone], self._turns[gone]
        latest = min(self._turns.values(), default=0)
        for sequence in waiting:
            if sequence.uid not in self._left:
                passages = sorted(passages_of(sequence), key=lambda p: -p.length)
                self._left[sequence.uid], self._turns[sequence.uid] = passages, latest


def pooling_of(sequence: Sequence) -> Pooling:
    """Return what is wanted of a sequence's texts."""
    return cast(Pooling, sequence.request.pooling)


def passages_of(sequence: Sequence) -> Iterator[Passage]:
    """Yield the texts of a request."""
    start = 0
    for number, length in enumerate(pooling_of(sequence).lengths):
        yield Passage(sequence, number, start, length)
        start += length


def _pooled(passage: Passage, start: int, end: int) -> list[bool]:
    """Return which columns from ``start`` to ``end`` count."""
    first = 0 if passage.pooling.kind == "mean" else passage.length - 1
    return [first <= at < passage.length for at in range(start, end)]


def _logits(backbone: Backbone, state: mx.array, tokens: Items[int]) -> mx.array:
    assert backbone.head is not None
    return backbone.head(state[None, None])[0, 0, mx.array(list(tokens))].astype(mx.float32)
