"""What the engine needs of whoever holds KV."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import mlx.core as mx
from attrs import frozen

from mlxserve.pool.table import Row

States: TypeAlias = tuple[mx.array, ...]
"""Hidden states of one pass ``[rows, width, size]``, one array for each layer that is watched."""


@frozen
class Chunk:
    """Some of a prompt for one row."""

    row: Row
    tokens: Sequence[int]


class RowStore(Protocol):
    """The rows of all live sequences, and the passes that run them through the model.

    All calls are made on the engine thread; graphs stay lazy until the engine evaluates.
    """

    @property
    def exclusive_prefill(self) -> bool:
        """Whether every row must be prefilled in a pass of its own."""

    @property
    def hidden(self) -> States:
        """Return the hidden states of the last pass; lazy, none where no layer is watched."""

    def open(self) -> Row:
        """Return a row that holds nothing yet."""

    def room(self, row: Row, tokens: int, ahead: int = 0) -> bool:
        """Make sure that ``row`` can hold ``tokens``; return whether it can.

        Args:
            row: The row.
            tokens: How many.
            ahead: Tokens that it will want later: a place with as much room is chosen if any is.
        """

    def join(self, row: Row) -> None:
        """Let ``row`` take part in decoding from now on."""

    def fork(self, row: Row) -> Row | None:
        """Return a row that goes on from where one that has not joined is; ``None``: no room."""

    def close(self, row: Row, *, keep: bool = True) -> None:
        """Let go of the row; with ``keep``, what others may find again stays."""

    def order(self) -> list[Row | None]:
        """Return the decoding rows in batch order; ``None`` is a place that runs unused."""

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run chunks of prompts; rows grow. Return logits ``[rows, width, vocab]``, lazy."""

    def decode(self, tokens: mx.array) -> mx.array:
        """Run one token per row ``[rows]``; rows grow. Return logits ``[rows, vocab]``, lazy."""

    def width(self, tokens: int) -> int:
        """Return how many tokens a row a pass has that verifies ``tokens``."""

    @property
    def traces(self) -> int:
        """Return how many passes were traced so far."""

    def warm(self, rows: int, widths: Sequence[int]) -> Iterator[None]:
        """Trace passes of up to ``rows`` rows of each of ``widths`` new tokens, one a ``next``."""

    @property
    def drafts_fit(self) -> bool:
        """Whether ``verify`` works: tokens can be taken back."""

    def verify(self, tokens: mx.array) -> mx.array:
        """Run several tokens per row ``[rows, width]``; rows do not grow yet.

        Returns:
            Logits ``[rows, width, vocab]``, lazy.
        """

    def commit(self, tokens: mx.array, kept: mx.array) -> list[mx.array]:
        """Keep the first ``kept`` ``[rows]`` of each row's tokens of the last ``verify``.

        The caller lengthens the rows when it knows the counts. Returns what else to evaluate.
        """

    def pending(self, rows: Sequence[Row]) -> list[mx.array]:
        """Return what must be evaluated for the rows' KV to be there."""

    def used(self) -> int:
        """Return how many blocks sequences use."""

    def renew(self) -> None:
        """Forget everything that was computed: an evaluation failed, no array can be trusted."""
