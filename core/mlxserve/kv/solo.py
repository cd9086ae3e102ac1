"""The fallback: every sequence in mlx-lm's own cache, one model call after the other."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from attrs import define, field

from mlxserve.kv.bucket import Bucket, Row
from mlxserve.kv.model import CausalModel
from mlxserve.kv.store import Chunk

UNBOUNDED = 1 << 62
STEP = 256


@define(eq=False)
class SoloStore:
    """Rows of models whose caches have no row layout: slower, never refused.

    Attributes:
        model: The model.
        make_caches: Makes one sequence's caches (``mlx_lm.models.cache.make_prompt_cache``).
    """

    model: CausalModel
    make_caches: Callable[[], list[Any]]
    exclusive_prefill: bool = True
    _caches: dict[Row, list[Any]] = field(factory=dict)
    _joined: list[Row] = field(factory=list)

    def open(self, tokens: int) -> Row:
        """Return a row with caches of its own; they grow by themselves."""
        del tokens
        return self._row(self.make_caches(), 0)

    def room(self, row: Row, tokens: int) -> None:
        """Do nothing: mlx-lm's caches grow."""

    def join(self, row: Row) -> None:
        """Decode the row from now on."""
        self._joined.append(row)

    def fork(self, row: Row) -> Row:
        """Copy the row's caches."""
        return self._row(copy.deepcopy(self._caches[row]), row.length)

    def close(self, row: Row) -> None:
        """Drop the row's caches."""
        del self._caches[row]
        if row in self._joined:
            self._joined.remove(row)

    def order(self) -> list[Row | None]:
        """Return the joined rows in order of joining."""
        return list(self._joined)

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run one chunk."""
        (chunk,) = chunks
        chunk.row.length += len(chunk.tokens)
        return self.model(mx.array([chunk.tokens], mx.int32), cache=self._caches[chunk.row])

    def decode(self, tokens: mx.array) -> mx.array:
        """Run row after row."""
        logits = []
        for at, row in enumerate(self._joined):
            logits.append(self.model(tokens[None, at : at + 1], cache=self._caches[row])[:, -1])
            row.length += 1
        return mx.concatenate(logits)

    @property
    def drafts_fit(self) -> bool:
        """Whether tokens can be taken back: not promised by every cache."""
        return False

    def verify(self, tokens: mx.array) -> mx.array:
        """Refuse: ``drafts_fit`` says so."""
        raise NotImplementedError

    def commit(self, tokens: mx.array, kept: mx.array) -> list[mx.array]:
        """Refuse: ``drafts_fit`` says so."""
        raise NotImplementedError

    def pending(self, rows: Sequence[Row]) -> list[mx.array]:
        """Return the arrays of the rows' caches."""
        return [a for row in rows for cache in self._caches[row] for a in _arrays(cache.state)]

    def tokens_held(self) -> int:
        """Count tokens in steps of mlx-lm's own growth."""
        return sum(self.cost(row.length) for row in self._caches)

    def squeeze(self) -> None:
        """Do nothing: no memory is held in reserve."""

    def cost(self, tokens: int) -> int:
        """Return ``tokens`` rounded up to mlx-lm's step."""
        return -(-tokens // STEP) * STEP

    def _row(self, caches: list[Any], length: int) -> Row:
        row = Row(Bucket(UNBOUNDED, (), []), 0, length)
        self._caches[row] = caches
        return row


def _arrays(state: Any) -> list[mx.array]:
    if isinstance(state, mx.array):
        return [state]
    if isinstance(state, list | tuple):
        return [a for part in state for a in _arrays(part)]
    return []
