"""Passes: rows of the pool through the model, eagerly."""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
from attrs import define, field

from mlxserve.attention.readers import KernelReader, Reader, RunReader, Span, TableReader
from mlxserve.attention.views import Frame, Pass, Ways
from mlxserve.batch.compiled import KERNEL_WIDTH, Compiled, width_class
from mlxserve.batch.store import Chunk, States
from mlxserve.model.causal import CausalModel
from mlxserve.model.taps import Taps
from mlxserve.pool.layout import AttentionLeaf
from mlxserve.pool.planes import Apart, LeafData
from mlxserve.pool.pool import Pool, stack
from mlxserve.pool.table import Row


@define(eq=False)
class Runner:
    """Implements ``RowStore`` over a pool.

    Attributes:
        model: The model.
        pool: The rows.
        ways: What the model takes its caches for.
        stops_midway: Whether recurrent layers can keep a part of a pass.
        compiled: Runs the batch in passes of few, fixed shapes; ``None``: eagerly.
        taps: Watches layers of the model.
        hidden: What was seen in the last pass.
    """

    model: CausalModel
    pool: Pool
    ways: Ways = field(factory=Ways)
    stops_midway: bool = False
    compiled: Compiled | None = None
    taps: Taps = field(factory=Taps)
    hidden: States = ()
    _before: list[LeafData] = field(factory=list)

    def watch(self, taps: Taps) -> None:
        """Have ``taps``' layers in ``hidden`` after each pass."""
        self.taps = taps
        if self.compiled is not None:
            self.compiled.taps = taps

    @property
    def exclusive_prefill(self) -> bool:
        """Recurrent state cannot take padding."""
        return self.pool.recurrent or not self.ways.together

    @property
    def drafts_fit(self) -> bool:
        """Recurrent layers must be able to stop in the middle of a pass."""
        return not self.pool.recurrent or self.stops_midway

    def open(self) -> Row:
        """Return a row without blocks."""
        return self.pool.open()

    def room(self, row: Row, tokens: int, ahead: int = 0) -> bool:
        """Take blocks; unused ones give way."""
        return self.pool.room(row, tokens, ahead)

    def join(self, row: Row) -> None:
        """Give the row the next place in the batch."""
        self.pool.join(row)

    def fork(self, row: Row) -> Row | None:
        """Share what is full."""
        return self.pool.fork(row)

    def close(self, row: Row, *, keep: bool = True) -> None:
        """Give the row's blocks back."""
        self.pool.close(row, keep=keep)

    def order(self) -> list[Row | None]:
        """Return the rows of the batch, and the places that pad it to a class."""
        rows: list[Row | None] = list(self.pool.rows)
        places = len(rows) if self.compiled is None else self.compiled.places(len(rows))
        return rows + [None] * (places - len(rows))

    def used(self) -> int:
        """Count blocks."""
        return self.pool.used()

    def renew(self) -> None:
        """Make all planes anew."""
        self.pool.renew()

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run the chunks in one pass; what pads them is written nowhere."""
        width = max(len(chunk.tokens) for chunk in chunks)
        tokens = mx.array([[*c.tokens, *[0] * (width - len(c.tokens))] for c in chunks], mx.int32)
        rows = [chunk.row for chunk in chunks]
        for chunk in chunks:
            if not self.pool.room(chunk.row, chunk.row.length + len(chunk.tokens)):
                raise MemoryError("no blocks for a chunk that was scheduled")
        counts = [len(chunk.tokens) for chunk in chunks]
        batch, self.pool.data = self.pool.data, self.pool.with_state(rows)
        try:
            logits = self._run(rows, tokens, counts)
        finally:
            batch, self.pool.data = self.pool.data, self.pool.merged(batch)
        for at, chunk in enumerate(chunks):
            chunk.row.length += len(chunk.tokens)
            if self.pool.recurrent:
                chunk.row.state = self.pool.cut_state(self.pool.states(batch), at)
        return logits

    def decode(self, tokens: mx.array) -> mx.array:
        """Run the batch, a token each."""
        logits = self._run_batch(tokens[:, None])[:, -1]
        for row in self.pool.rows:
            row.length += 1
        return logits

    def verify(self, tokens: mx.array) -> mx.array:
        """Run the batch; recurrent state from before is kept for ``commit``."""
        self._before = self.pool.states()
        return self._run_batch(tokens)

    def commit(self, tokens: mx.array, kept: mx.array) -> list[mx.array]:
        """Take recurrent state back and run it again over the kept tokens only.

        Attention needs nothing: what lies past a row's length is overwritten.
        """
        if not self.pool.recurrent:
            return []
        pairs = zip(self.pool.data, self._before, self.pool.shape.layout.leaves, strict=True)
        self.pool.data = [d if isinstance(leaf, AttentionLeaf) else old for d, old, leaf in pairs]
        self._before = []
        self._run_batch(tokens, kept)
        return [a for state in self.pool.states() for a in state if a is not None]

    def pending(self, rows: Sequence[Row]) -> list[mx.array]:
        """Return all planes, and the rows' states."""
        own = [a for row in rows for state in row.state for a in state]
        arrays: list[Any] = [a for data in self.pool.data for a in data] + own
        return [a for a in arrays if a is not None]

    def width(self, tokens: int) -> int:
        """Return the class of a pass."""
        classes = self.compiled is not None and not self.pool.recurrent
        return width_class(tokens) if classes else tokens

    @property
    def traces(self) -> int:
        """Count the compiled passes that were traced."""
        return 0 if self.compiled is None else self.compiled.traces

    def warm(self, rows: int, widths: Sequence[int]) -> Iterator[None]:
        """Trace passes of up to ``rows`` rows of each of ``widths`` new tokens."""
        return iter(()) if self.compiled is None else self.compiled.warm(rows, widths)

    def _run_batch(self, tokens: mx.array, lengths: mx.array | None = None) -> mx.array:
        if self.compiled is not None and self.compiled.takes(tokens, lengths):
            logits, self.hidden = self.compiled.run(tokens)
            return logits
        tokens = tokens[: len(self.pool.rows)]
        lengths = None if lengths is None else lengths[: len(self.pool.rows)]
        return self._run(self.pool.rows, tokens, [tokens.shape[1]] * len(self.pool.rows), lengths)

    def _run(
        self,
        rows: Sequence[Row],
        tokens: mx.array,
        counts: Sequence[int],
        lengths: mx.array | None = None,
    ) -> mx.array:
        if self.ways.together or len(rows) == 1:
            return self._pass(rows, tokens, counts, lengths)
        parts, states, hidden = [], [], list[States]()
        whole = self.pool.states()
        for at, row in enumerate(rows):
            self.pool.put_states(self.pool.cut_state(whole, at))
            mine = None if lengths is None else lengths[at : at + 1]
            parts.append(self._pass([row], tokens[at : at + 1], counts[at : at + 1], mine))
            states.append(self.pool.states())
            hidden.append(self.hidden)
        self.pool.put_states(stack(states))
        self.hidden = tuple(mx.concatenate(list(each)) for each in zip(*hidden, strict=True))
        return mx.concatenate(parts)

    def _pass(
        self,
        rows: Sequence[Row],
        tokens: mx.array,
        counts: Sequence[int],
        lengths: mx.array | None,
    ) -> mx.array:
        width = tokens.shape[1]
        starts = mx.array([row.length for row in rows], mx.int32)
        frames = [
            self._frame(number, rows, starts, counts, width)
            for number in range(len(self.pool.groups))
        ]
        chosen = None
        if any(count < width for count in counts):
            flat = [at * width + n for at, count in enumerate(counts) for n in range(count)]
            chosen = mx.array(flat, mx.int32)
        offset: mx.array | int = starts if self.ways.together else rows[0].length
        size = (len(rows), width)
        run = Pass(self.pool.shape, self.pool.data, frames, offset, size, self.ways, chosen)
        # Old planes are dropped before anything is evaluated: mlx then updates in place.
        self.pool.data = []
        try:
            logits, self.hidden = self.taps.run(self.model, tokens, run.views(lengths))
            return logits
        finally:
            self.pool.data = run.finish()

    def _frame(
        self,
        number: int,
        rows: Sequence[Row],
        starts: mx.array,
        counts: Sequence[int],
        width: int,
    ) -> Frame:
        spans = [Span(r.tables[number], r.length, n) for r, n in zip(rows, counts, strict=True)]
        where = [slot for s in spans for slot in s.table.slots(s.start, s.end)]
        return Frame(mx.array(where, mx.int32), self._reader(spans, starts, width))

    def _reader(self, spans: Sequence[Span], starts: mx.array, width: int) -> Reader:
        if isinstance(self.pool.shape.arrangement, Apart):
            return RunReader(spans, width, self.pool.shape.arrangement)
        reach = max(span.start for span in spans) + width
        blocks = -(-reach // self.pool.size)
        numbers = [(s.table.numbers + [0] * blocks)[:blocks] for s in spans]
        table = mx.array(numbers, mx.int32)
        arrangement = self.pool.shape.arrangement
        causal = len(spans) == 1
        gather = TableReader(table, starts, width, self.pool.size, arrangement, reach, causal)
        return KernelReader(table, starts, gather) if width <= KERNEL_WIDTH else gather
