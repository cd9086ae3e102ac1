"""The fallback: every sequence in mlx-lm's own cache, one model call after the other."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from attrs import define, field

from mlxserve.batch.store import Chunk, States
from mlxserve.pool.table import Row


@define(eq=False)
class SoloStore:
    """Rows of models whose caches have no place in a pool: slower, never refused.

    Attributes:
        model: The model.
        make_caches: Makes one sequence's caches (``mlx_lm.models.cache.make_prompt_cache``).
    """

    model: Any
    make_caches: Callable[[], list[Any]]
    exclusive_prefill: bool = True
    drafts_fit: bool = False
    traces: int = 0
    _caches: dict[int, list[Any]] = field(factory=dict)
    _joined: list[Row] = field(factory=list)
    _rows: dict[int, Row] = field(factory=dict)

    @property
    def hidden(self) -> States:
        """Nothing is drafted, so nothing is watched."""
        return ()

    def open(self) -> Row:
        """Return a row with caches of its own; they grow by themselves."""
        return self._row(self.make_caches(), 0)

    def room(self, row: Row, tokens: int, ahead: int = 0) -> bool:
        """Return true: mlx-lm's caches grow."""
        del row, tokens, ahead
        return True

    def join(self, row: Row) -> None:
        """Decode the row from now on."""
        row.slot = len(self._joined)
        self._joined.append(row)

    def fork(self, row: Row) -> Row | None:
        """Copy the row's caches."""
        return self._row(copy.deepcopy(self._caches[id(row)]), row.length)

    def close(self, row: Row, *, keep: bool = True) -> None:
        """Drop the row's caches."""
        del keep
        del self._caches[id(row)], self._rows[id(row)]
        if row in self._joined:
            self._joined.remove(row)
        row.slot = None

    def order(self) -> list[Row | None]:
        """Return the joined rows in order of joining."""
        return list(self._joined)

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run one chunk."""
        (chunk,) = chunks
        chunk.row.length += len(chunk.tokens)
        tokens = mx.array([chunk.tokens], mx.int32)
        logits: mx.array = self.model(tokens, cache=self._caches[id(chunk.row)])
        return logits

    def decode(self, tokens: mx.array) -> mx.array:
        """Run row after row."""
        logits = []
        for at, row in enumerate(self._joined):
            mine = tokens[None, at : at + 1]
            logits.append(self.model(mine, cache=self._caches[id(row)])[:, -1])
            row.length += 1
        return mx.concatenate(logits)

    def width(self, tokens: int) -> int:
        """Return ``tokens``."""
        return tokens

    def warm(self, rows: int, widths: Sequence[int]) -> Iterator[None]:
        """Trace nothing."""
        del rows, widths
        return iter(())

    def verify(self, tokens: mx.array) -> mx.array:
        """Refuse: ``drafts_fit`` says so."""
        raise NotImplementedError

    def commit(self, tokens: mx.array, kept: mx.array) -> list[mx.array]:
        """Refuse: ``drafts_fit`` says so."""
        raise NotImplementedError

    def pending(self, rows: Sequence[Row]) -> list[mx.array]:
        """Return the arrays of the rows' caches."""
        return [
            a for row in rows for cache in self._caches[id(row)] for a in arrays_of(cache.state)
        ]

    def used(self) -> int:
        """Count nothing: no blocks are there."""
        return 0

    def renew(self) -> None:
        """Do nothing: rows that failed are closed, and nothing is shared."""

    def _row(self, caches: list[Any], length: int) -> Row:
        row = Row((), length)
        self._caches[id(row)], self._rows[id(row)] = caches, row
        return row


def arrays_of(state: Any) -> list[mx.array]:
    """Return the arrays of an mlx-lm cache's ``state``, however deep."""
    if isinstance(state, mx.array):
        return [state]
    if isinstance(state, list | tuple):
        return [a for part in state for a in arrays_of(part)]
    return []
