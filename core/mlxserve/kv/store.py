"""The rows of all live sequences, and the passes that run them through the model."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.kv.bucket import Bucket, Row, capacity_for, empty_planes
from mlxserve.kv.layout import AttentionLeaf, Layout
from mlxserve.kv.model import CausalModel
from mlxserve.kv.passes import LeafCodec, LeafPlanes, Pass, Planes, Span


@frozen
class Chunk:
    """Some of a prompt for one row."""

    row: Row
    tokens: Sequence[int]


class RowStore(Protocol):
    """What the engine needs of whoever holds KV.

    All calls are made on the engine thread; graphs stay lazy until the engine evaluates.
    """

    @property
    def exclusive_prefill(self) -> bool:
        """Whether every row must be prefilled in a pass of its own."""

    def open(self, tokens: int) -> Row:
        """Return a row of its own with room for ``tokens``, not decoding yet."""

    def room(self, row: Row, tokens: int) -> None:
        """Make sure that ``row`` holds ``tokens``; it may move."""

    def join(self, row: Row) -> None:
        """Let ``row`` take part in decoding from now on."""

    def fork(self, row: Row) -> Row:
        """Return a copy of a row that has not joined yet."""

    def close(self, row: Row) -> None:
        """Free the row."""

    def order(self) -> list[Row | None]:
        """Return the decoding rows in batch order; ``None`` is a slot that runs unused."""

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run chunks of prompts; rows grow. Return logits ``[rows, width, vocab]``, lazy."""

    def decode(self, tokens: mx.array) -> mx.array:
        """Run one token per row ``[rows]``; rows grow. Return logits ``[rows, vocab]``, lazy."""

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

    def tokens_held(self) -> int:
        """Return for how many tokens memory is allocated."""

    def squeeze(self) -> None:
        """Give back memory that no row uses, at the cost of moving some."""

    def cost(self, tokens: int) -> int:
        """Return for how many tokens memory a row of ``tokens`` takes."""


@define(eq=False)
class BucketStore:
    """Rows in buckets: the layout of every model whose caches are understood.

    A row is prefilled in a bucket of its own, which then becomes or joins a decoding bucket. All
    decoding buckets run in one pass through the seam, or one after the other (``handles`` false)
    for models that use the fetched arrays themselves.

    Attributes:
        handles: Whether the seam attends.
        compiled: Whether passes over one bucket are: a trace for each number of rows and tokens.
        narrow: Attend only as far as a bucket's longest row reaches. Pays where arithmetic is dear
            (a CPU), not where a slice in every layer is.
        stops_midway: Whether recurrent layers can keep a part of a pass.
    """

    model: CausalModel
    layout: Layout
    codecs: Sequence[LeafCodec | None]
    shapes: Sequence[Sequence[tuple[int, int, mx.Dtype]]]
    handles: bool = True
    compiled: bool = False
    narrow: bool = False
    stops_midway: bool = False
    decoding: list[Bucket] = field(factory=list)
    staged: list[Bucket] = field(factory=list)
    _traced: Callable[..., Any] | None = None
    _before: list[list[LeafPlanes | None]] = field(factory=list)

    @property
    def exclusive_prefill(self) -> bool:
        """Recurrent state cannot take padding; a model on arrays takes one bucket per pass."""
        return self.layout.recurrent or not self.handles

    def open(self, tokens: int) -> Row:
        """Return a row in a new bucket of one."""
        bucket = self._bucket(capacity_for(tokens))
        row = Row(bucket, 0)
        bucket.slots = [row]
        self.staged.append(bucket)
        return row

    def room(self, row: Row, tokens: int) -> None:
        """Widen a bucket of one; move a row of a shared bucket up."""
        if tokens <= row.capacity:
            return
        capacity = capacity_for(tokens)
        if row.bucket.rows == 1:
            bucket, joined = row.bucket, row.bucket in self.decoding
            target = self._target(capacity) if joined else None
            bucket.widen(capacity)
            if target is not None:
                self.decoding.remove(bucket)
                target.take_in(row)
            return
        home = row.bucket
        single = home.take_out(row)
        self._vacate(row)
        single.slots, row.bucket, row.slot = [row], single, 0
        single.widen(capacity)
        self._enter(row)

    def join(self, row: Row) -> None:
        """Take the row out of its prefill bucket, or let that bucket decode."""
        self.staged.remove(row.bucket)
        self._enter(row)

    def fork(self, row: Row) -> Row:
        """Copy a staged row."""
        bucket = row.bucket.take_out(row)
        twin = Row(bucket, 0, row.length)
        bucket.slots = [twin]
        self.staged.append(bucket)
        return twin

    def close(self, row: Row) -> None:
        """Free the slot; give memory back where enough of it is free."""
        if row.bucket in self.staged:
            self.staged.remove(row.bucket)
        else:
            self._vacate(row)

    def order(self) -> list[Row | None]:
        """Return the slots of all decoding buckets."""
        return [row for bucket in self.decoding for row in bucket.slots]

    def prefill(self, chunks: Sequence[Chunk]) -> mx.array:
        """Run the chunks in one pass, padded on the right with what later writes overwrite."""
        width = max(len(chunk.tokens) for chunk in chunks)
        tokens = mx.array([[*c.tokens, *[0] * (width - len(c.tokens))] for c in chunks], mx.int32)
        buckets = [chunk.row.bucket for chunk in chunks]
        reaches = [chunk.row.length + width for chunk in chunks]
        logits = self._run(buckets, tokens, reaches)
        for chunk in chunks:
            chunk.row.length += len(chunk.tokens)
        return logits

    def decode(self, tokens: mx.array) -> mx.array:
        """Run all decoding buckets, together where the seam allows."""
        logits = self._run_decoding(tokens[:, None])[:, -1]
        for row in self.order():
            if row is not None:
                row.length += 1
        return logits

    @property
    def drafts_fit(self) -> bool:
        """Recurrent layers must be able to stop in the middle of a pass."""
        return not self.layout.recurrent or self.stops_midway

    def verify(self, tokens: mx.array) -> mx.array:
        """Run all decoding buckets; recurrent state from before is kept for ``commit``."""
        self._before = [self._states(bucket) for bucket in self.decoding]
        return self._run_decoding(tokens)

    def commit(self, tokens: mx.array, kept: mx.array) -> list[mx.array]:
        """Take recurrent state back and run it again over the kept tokens only.

        Attention needs nothing: what lies past a row's length is overwritten.
        """
        if not self.layout.recurrent:
            return []
        for bucket, states in zip(self.decoding, self._before, strict=True):
            bucket.planes = [
                held if old is None else old
                for held, old in zip(bucket.planes, states, strict=True)
            ]
        self._before = []
        self._run_decoding(tokens, kept)
        states = [s for bucket in self.decoding for s in self._states(bucket)]
        return [a for held in states for a in held or () if a is not None]

    def _states(self, bucket: Bucket) -> list[LeafPlanes | None]:
        pairs = zip(self.layout.leaves, bucket.planes, strict=True)
        return [None if isinstance(leaf, AttentionLeaf) else held for leaf, held in pairs]

    def _run_decoding(self, tokens: mx.array, lengths: mx.array | None = None) -> mx.array:
        wide = tokens.shape[1] > 1
        if self.compiled and len(self.decoding) == 1 and not (wide and self.layout.recurrent):
            return self._run_compiled(tokens)
        if self.handles:
            reaches = [self._reach(bucket, tokens.shape[1]) for bucket in self.decoding]
            return self._run(self.decoding, tokens, reaches, lengths)
        at, parts = 0, []
        for bucket in self.decoding:
            mine = slice(at, at + bucket.rows)
            of_mine = None if lengths is None else lengths[mine]
            reach = self._reach(bucket, tokens.shape[1])
            parts.append(self._run([bucket], tokens[mine], [reach], of_mine))
            at += bucket.rows
        return mx.concatenate(parts)

    def _reach(self, bucket: Bucket, width: int) -> int | None:
        if not self.narrow:
            return None
        return width + max((row.length for row in bucket.slots if row), default=0)

    def pending(self, rows: Sequence[Row]) -> list[mx.array]:
        """Return the arrays of the rows' buckets."""
        buckets = {id(row.bucket): row.bucket for row in rows}
        return [a for bucket in buckets.values() for a in bucket.arrays()]

    def tokens_held(self) -> int:
        """Count every slot, used or not."""
        return sum(b.rows * b.capacity for b in (*self.decoding, *self.staged))

    def squeeze(self) -> None:
        """Close all gaps."""
        for bucket in self.decoding:
            if bucket.live < bucket.rows:
                bucket.compact()

    def cost(self, tokens: int) -> int:
        """Return the size class."""
        return capacity_for(tokens)

    def _run_compiled(self, tokens: mx.array) -> mx.array:
        bucket = self.decoding[0]
        if self._traced is None:
            self._traced = mx.compile(self._step)
        done: tuple[mx.array, Planes] = self._traced(tokens, bucket.starts, bucket.planes)
        bucket.planes = done[1]
        return done[0]

    def _step(self, tokens: mx.array, starts: mx.array, planes: Planes) -> tuple[mx.array, Planes]:
        # A trace is of one shape: the bucket's capacity is read off the planes of that trace.
        held = zip(self.layout.leaves, planes, strict=True)
        sizes = [
            p[0].shape[2]
            for leaf, p in held
            if isinstance(leaf, AttentionLeaf) and p[0] is not None
        ]
        span = Span(tokens.shape[0], sizes[0] if sizes else 0)
        logits, new = self._call([span], [starts], [planes], tokens)
        return logits, new[0]

    def _run(
        self,
        buckets: Sequence[Bucket],
        tokens: mx.array,
        reaches: Sequence[int | None],
        lengths: mx.array | None = None,
    ) -> mx.array:
        spans = [Span(b.rows, b.capacity, r) for b, r in zip(buckets, reaches, strict=True)]
        starts = [bucket.starts for bucket in buckets]
        held = [bucket.planes for bucket in buckets]
        logits, planes = self._call(spans, starts, held, tokens, lengths)
        del held
        # Old planes are dropped before anything is evaluated: mlx then updates in place.
        for bucket, new in zip(buckets, planes, strict=True):
            bucket.planes = new
        return logits

    def _call(
        self,
        spans: Sequence[Span],
        starts: Sequence[mx.array],
        planes: Sequence[Planes],
        tokens: mx.array,
        lengths: mx.array | None = None,
    ) -> tuple[mx.array, list[Planes]]:
        run = Pass(
            self.layout, self.codecs, spans, starts, planes, tokens.shape[1], handles=self.handles
        )
        views = run.views()
        run.stop_at(lengths)
        logits = self.model(tokens, cache=views)
        return logits, run.finish()

    def _bucket(self, capacity: int) -> Bucket:
        leaves = self.layout.leaves
        return Bucket(capacity, leaves, empty_planes(leaves, self.shapes, capacity))

    def _target(self, capacity: int) -> Bucket | None:
        fits = [b for b in self.decoding if b.capacity == capacity]
        roomy = [
            b for b in self.decoding if capacity < b.capacity <= 2 * capacity and b.live < b.rows
        ]
        return next(iter((*fits, *sorted(roomy, key=lambda b: b.capacity))), None)

    def _enter(self, row: Row) -> None:
        target = self._target(row.capacity)
        if target is None:
            self.decoding.append(row.bucket)
        else:
            target.take_in(row)

    def _vacate(self, row: Row) -> None:
        bucket = row.bucket
        bucket.release(row)
        if bucket.live == 0:
            self.decoding.remove(bucket)
        elif bucket.live * 3 <= bucket.rows * 2:
            # A free slot is computed in vain, and the next row to come can use it: a third is
            # where moving the others pays.
            bucket.compact()
