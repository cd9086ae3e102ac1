"""Buckets: rows of one capacity that lie in one set of arrays."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import mlx.core as mx
from attrs import define, field

from mlxserve.kv.layout import AttentionLeaf, Leaf
from mlxserve.kv.passes import LeafPlanes, Planes

CAPACITIES: Final = tuple(sorted({256, 512, 768, *(k << e for e in range(9, 26) for k in (2, 3))}))
"""Size classes in tokens, at most 1.5 times apart from 512 on: waste stays bounded, moves rare."""


def capacity_for(tokens: int) -> int:
    """Return the smallest size class that holds ``tokens``."""
    return CAPACITIES[bisect_left(CAPACITIES, tokens)]


@define(eq=False)
class Row:
    """One live sequence's place: a slot of a bucket, and how many tokens lie there."""

    bucket: "Bucket"
    slot: int
    length: int = 0

    @property
    def capacity(self) -> int:
        """Tokens that fit before the row must move."""
        return self.bucket.capacity


@define(eq=False)
class Bucket:
    """Slots of one capacity. What lies past a row's length, or in a free slot, is garbage.

    Attributes:
        capacity: Tokens per slot.
        leaves: The model's caches.
        planes: What the slots hold, per leaf; axis 0 is the slot.
        slots: The live rows by slot; ``None`` is free.
    """

    capacity: int
    leaves: Sequence[Leaf]
    planes: Planes
    slots: list[Row | None] = field(factory=lambda: [None])

    @property
    def rows(self) -> int:
        """How many slots are allocated."""
        return len(self.slots)

    @property
    def live(self) -> int:
        """How many slots are in use."""
        return sum(row is not None for row in self.slots)

    @property
    def starts(self) -> mx.array:
        """Each slot's length ``[rows]`` int32; 0 for a free one."""
        return mx.array([0 if row is None else row.length for row in self.slots], mx.int32)

    def take_in(self, row: Row) -> None:
        """Move ``row`` here from a bucket of its own (one copy of its KV)."""
        source = row.bucket
        assert source.rows == 1
        slot = next((i for i, held in enumerate(self.slots) if held is None), None)
        if slot is None:
            slot = self.rows
            self._add_slot()
        self.planes = [
            tuple(
                _put(mine, theirs, slot, self.rows, self.capacity if self._deep(leaf) else None)
                for mine, theirs in zip(held, given, strict=True)
            )
            for leaf, held, given in zip(self.leaves, self.planes, source.planes, strict=True)
        ]
        source.slots = [None]
        self.slots[slot] = row
        row.bucket, row.slot = self, slot

    def take_out(self, row: Row) -> "Bucket":
        """Return a bucket of one that holds a copy of ``row``; the row itself stays."""
        part = slice(row.slot, row.slot + 1)
        planes = self._map(lambda _, a: mx.contiguous(a[part]))
        return Bucket(self.capacity, self.leaves, planes)

    def widen(self, capacity: int) -> None:
        """Give every slot room for ``capacity`` tokens (one copy)."""
        more = capacity - self.capacity
        self.planes = self._map(lambda leaf, a: _lengthen(a, more) if self._deep(leaf) else a)
        self.capacity = capacity

    def release(self, row: Row) -> None:
        """Free the row's slot; what it held is garbage from now on."""
        self.slots[row.slot] = None

    def compact(self) -> None:
        """Give free slots back (one copy of the live rows)."""
        keep = [slot for slot, row in enumerate(self.slots) if row is not None]
        order = mx.array(keep, mx.int32)
        self.planes = self._map(lambda _, a: mx.take(a, order, axis=0))
        self.slots = [self.slots[slot] for slot in keep]
        for slot, row in enumerate(self.slots):
            if row is not None:
                row.slot = slot

    def arrays(self) -> list[mx.array]:
        """Return every array, for ``mx.eval``."""
        return [a for leaf in self.planes for a in leaf if a is not None]

    @staticmethod
    def _deep(leaf: Leaf) -> bool:
        return isinstance(leaf, AttentionLeaf)

    def _map(self, change: Callable[[Leaf, mx.array], mx.array]) -> Planes:
        pairs = zip(self.leaves, self.planes, strict=True)
        return [tuple(None if a is None else change(leaf, a) for a in held) for leaf, held in pairs]

    def _add_slot(self) -> None:
        def grow(_: Leaf, a: mx.array) -> mx.array:
            return mx.concatenate([a, mx.zeros((1, *a.shape[1:]), a.dtype)])

        self.planes = self._map(grow)
        self.slots.append(None)


def _lengthen(plane: mx.array, more: int) -> mx.array:
    return mx.pad(plane, [(0, 0), (0, 0), (0, more), (0, 0)])


def _put(
    mine: mx.array | None, theirs: mx.array | None, slot: int, rows: int, capacity: int | None
) -> mx.array | None:
    """Return ``mine`` with slot ``slot`` replaced; recurrent arrays may not be there yet."""
    if theirs is None:
        if mine is not None:
            mine[slot : slot + 1] = mx.zeros((1, *mine.shape[1:]), mine.dtype)
        return mine
    if capacity is not None and theirs.shape[2] < capacity:
        theirs = _lengthen(theirs, capacity - theirs.shape[2])
    if mine is None:
        mine = mx.zeros((rows, *theirs.shape[1:]), theirs.dtype)
    return mx.slice_update(mine, theirs, mx.array([slot]), (0,))


def empty_planes(
    leaves: Sequence[Leaf], shapes: Sequence[Sequence[tuple[int, int, mx.Dtype]]], capacity: int
) -> Planes:
    """Return zeroed planes for one slot.

    Args:
        leaves: The model's caches.
        shapes: Per leaf its planes' (heads, width, dtype); empty for recurrent ones.
        capacity: Tokens per slot.
    """
    planes: list[LeafPlanes] = []
    for leaf, specs in zip(leaves, shapes, strict=True):
        if isinstance(leaf, AttentionLeaf):
            planes.append(tuple(mx.zeros((1, h, capacity, w), t) for h, w, t in specs))
        else:
            planes.append((None,) * leaf.size)
    return planes
