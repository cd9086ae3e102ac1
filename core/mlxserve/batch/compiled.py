"""The batch in passes of few, fixed shapes, each traced and compiled once."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from attrs import define, field

from mlxserve.attention.readers import KernelReader, TableReader
from mlxserve.attention.views import Frame, Pass, Ways
from mlxserve.batch.store import States
from mlxserve.model.causal import CausalModel
from mlxserve.model.taps import Taps
from mlxserve.pool.planes import LeafData
from mlxserve.pool.pool import Pool
from mlxserve.pool.table import Row, Table

KERNEL_WIDTH: Final = 8
"""Most new tokens a row that kernels take."""

ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
"""Classes of rows: a batch is padded to the next one. Each costs a GPU half a second at start."""

NEAR: Final = 4096
"""Tokens of a context that kernels read in few parts."""

WIDTHS: Final = (1, 2, 4, 8)
"""Classes of new tokens a row."""


@define(eq=False)
class DeviceTables:
    """One group's tables on the device: rows are rewritten when their blocks change.

    Attributes:
        blocks: The longest table.
        array: ``[rows, blocks]`` int32.
    """

    blocks: int
    array: mx.array = field(factory=lambda: mx.zeros((0, 0), mx.int32))
    written: int = 0
    _known: list[tuple[Table | None, int]] = field(factory=list)

    def update(self, tables: Sequence[Table | None]) -> None:
        """Write the tables that are not what they were."""
        if len(tables) != len(self._known):
            self.array = mx.zeros((len(tables), self.blocks), mx.int32)
            self._known = [(None, 0)] * len(tables)
        changed = [
            at
            for at, (table, known) in enumerate(zip(tables, self._known, strict=True))
            if table is not known[0] or (table is not None and table.version != known[1])
        ]
        if not changed:
            return
        rows = np.zeros((len(changed), self.blocks), np.int32)
        for to, at in enumerate(changed):
            table = tables[at]
            self._known[at] = (table, 0 if table is None else table.version)
            if table is not None:
                rows[to, : len(table.numbers)] = table.numbers[: self.blocks]
        self.written += len(changed)
        self.array[mx.array(changed, mx.int32)] = mx.array(rows)


@define(eq=False)
class Compiled:
    """Runs the pool's batch through ``mx.compile``: one trace for each class of rows and width.

    What varies from step to step (lengths, tables) reaches the trace as data.

    Attributes:
        model: The model.
        pool: The rows.
        ways: What the model takes its caches for.
        longest: Tokens of the longest sequence.
        kernels: Whether kernels attend: then tables have one width, else that of a class.
        state: Recurrent arrays of one row, as (shape, dtype).
        traces: How many passes were traced so far.
        taps: Watches layers of the model.
    """

    model: CausalModel
    pool: Pool
    ways: Ways
    longest: int
    kernels: bool
    state: Sequence[tuple[tuple[int, ...], mx.Dtype]] = ()
    traces: int = 0
    taps: Taps = field(factory=Taps)
    _step: Callable[..., Any] = field(init=False)
    _tables: list[DeviceTables] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._step = mx.compile(self._trace)
        blocks = -(-self.longest // self.pool.size) + 1
        self._tables = [DeviceTables(min(blocks, group.blocks.count)) for group in self.pool.groups]

    def places(self, rows: int) -> int:
        """Return the class of a batch of ``rows``; recurrent state is not padded."""
        if self.pool.recurrent or not rows:
            return rows
        return ROWS[bisect_left(ROWS, rows)] if rows <= ROWS[-1] else rows

    def takes(self, tokens: mx.array, lengths: mx.array | None) -> bool:
        """Return whether such a pass is compiled: not one that stops recurrent layers midway."""
        wide = tokens.shape[1] > 1
        return lengths is None and not (wide and self.pool.recurrent)

    def run(self, tokens: mx.array) -> tuple[mx.array, States]:
        """Run ``[places, width]`` tokens.

        Returns:
            Logits ``[places, width, vocab]``, and the hidden states that are watched.
        """
        rows: list[Row | None] = list(self.pool.rows)
        rows += [None] * (tokens.shape[0] - len(rows))
        lengths = mx.array([0 if row is None else row.length for row in rows], mx.int32)
        for number, tables in enumerate(self._tables):
            tables.update([None if row is None else row.tables[number] for row in rows])
        held = max((row.length for row in rows if row is not None), default=0)
        return self._call(tokens, lengths, held + tokens.shape[1])

    def _call(self, tokens: mx.array, lengths: mx.array, reach: int) -> tuple[mx.array, States]:
        tables = [self._cut(t, reach) for t in self._tables]
        data, self.pool.data = self.pool.data, []
        try:
            logits, hidden, self.pool.data = self._step(tokens, lengths, tables, data)
        finally:
            if not self.pool.data:  # the trace failed: nothing was changed
                self.pool.data = data
        return logits, hidden

    def _cut(self, tables: DeviceTables, reach: int) -> mx.array:
        """Return the tables as wide as the class of the longest row.

        Kernels follow tables of any width, but how many parts they split a context into, and
        whether those must be merged, is a matter of shapes: two classes do.
        """
        if self.kernels:
            near = NEAR // self.pool.size
            return (
                tables.array[:, :near]
                if reach <= NEAR < tables.blocks * self.pool.size
                else tables.array
            )
        blocks = 1 << max(-(-reach // self.pool.size) - 1, 3).bit_length()
        return tables.array[:, : min(blocks, tables.blocks)]

    def _trace(
        self,
        tokens: mx.array,
        lengths: mx.array,
        tables: Sequence[mx.array],
        data: Sequence[LeafData],
    ) -> tuple[mx.array, States, list[LeafData]]:
        self.traces += 1
        size, (rows, width) = self.pool.size, tokens.shape
        positions = lengths[:, None] + mx.arange(width)[None]
        frames = []
        for table in tables:
            block = mx.take_along_axis(table, positions // size, axis=1)
            where = (block * size + positions % size).reshape(-1)
            reach = table.shape[1] * size
            gather = TableReader(table, lengths, width, size, self.pool.shape.arrangement, reach)
            reader = KernelReader(table, lengths, gather) if width <= KERNEL_WIDTH else gather
            frames.append(Frame(where, reader))
        run = Pass(self.pool.shape, data, frames, lengths, (rows, width), self.ways)
        logits, hidden = self.taps.run(self.model, tokens, run.views())
        return logits, hidden, run.finish()

    def warm(self, rows: int, widths: Sequence[int]) -> Iterator[None]:
        """Trace the classes up to ``rows``, for idle rows that write to the scratch block.

        Each ``next`` traces one: near contexts of all rows before far ones.
        """
        counts = range(1, rows + 1) if self.pool.recurrent else [n for n in ROWS if n < rows]
        for number in range(len(self.pool.groups)):
            self.pool.reach(number, 1)
        for width in widths if not self.pool.recurrent else [w for w in widths if w == 1]:
            for reach in (width, self.longest) if self.kernels else (width,):
                for count in dict.fromkeys((*counts, self.places(rows))):
                    self._warm(count, width, reach)
                    yield

    def _warm(self, rows: int, width: int, reach: int) -> None:
        states = self.pool.states()
        if self.pool.recurrent:
            self.pool.put_states(self._zeros(rows))
        for tables in self._tables:
            tables.update([None] * rows)
        lengths = mx.zeros((rows,), mx.int32)
        logits, _ = self._call(mx.zeros((rows, width), mx.int32), lengths, reach)
        mx.eval(mx.argmax(logits[:, -1], axis=-1))
        if self.pool.recurrent:
            self.pool.put_states(states)

    def _zeros(self, rows: int) -> list[LeafData]:
        left = iter(self.state)
        return [
            tuple(mx.zeros((rows, *shape[1:]), dtype) for shape, dtype in self._some(left, len(s)))
            for s in self.pool.states()
        ]

    @staticmethod
    def _some(left: Any, count: int) -> list[Any]:
        return [next(left) for _ in range(count)]


def width_class(width: int) -> int:
    """Return the class of a verification pass of ``width`` tokens a row."""
    return WIDTHS[bisect_left(WIDTHS, width)] if width <= WIDTHS[-1] else width
