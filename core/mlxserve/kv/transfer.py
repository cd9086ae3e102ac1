"""Move KV between rows and blocks: all layers' planes of a kind travel as one array."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from attrs import frozen

from mlxserve.kv.bucket import Row
from mlxserve.kv.layout import AttentionLeaf
from mlxserve.kv.passes import LeafPlanes
from mlxserve.kv.store import BucketStore
from mlxserve_hookspecs import GroupSpec

NAMES = {
    mx.float32: "F32",
    mx.bfloat16: "BF16",
    mx.float16: "F16",
    mx.uint32: "U32",
    mx.uint8: "U8",
    mx.int32: "I32",
}
RAW = {
    "F32": np.float32,
    "BF16": np.uint16,
    "F16": np.float16,
    "U32": np.uint32,
    "U8": np.uint8,
    "I32": np.int32,
}
"""What numpy reads a dtype's bytes as; it has no bfloat16."""


@frozen
class Transfer:
    """Knows where each plane lies in a block's arrays.

    Attributes:
        groups: A block's arrays.
        members: Per group, its planes as (leaf, plane of the leaf).
        block_size: Tokens per block.
    """

    groups: tuple[GroupSpec, ...]
    members: tuple[tuple[tuple[int, int], ...], ...]
    block_size: int

    @classmethod
    def of(cls, store: BucketStore, block_size: int) -> "Transfer":
        """Group the planes of ``store`` by heads, width and dtype, in order of appearance."""
        found: dict[tuple[int, int, str], list[tuple[int, int]]] = {}
        for leaf, specs in enumerate(store.shapes):
            for plane, (heads, width, dtype) in enumerate(specs):
                found.setdefault((heads, width, NAMES[dtype]), []).append((leaf, plane))
        groups = tuple(
            GroupSpec(planes=len(places), heads=heads, width=width, dtype=dtype)
            for (heads, width, dtype), places in found.items()
        )
        return cls(groups, tuple(tuple(places) for places in found.values()), block_size)

    def export(self, row: Row, first: int, count: int) -> list[tuple[mx.array, ...]]:
        """Return lazy copies of the row's blocks ``first`` to ``first + count``.

        Each block's arrays are ``[planes, heads, block_size, width]``, one per group.
        """
        start, size = first * self.block_size, self.block_size
        span = slice(start, start + count * size)
        runs = [
            mx.stack([_plane(row, place)[row.slot, :, span] for place in places])
            for places in self.members
        ]
        if count == 1:
            return [tuple(runs)]
        # One copy each: a block must not keep its neighbours' memory alive.
        return [
            tuple(mx.contiguous(run[:, :, at * size : (at + 1) * size]) for run in runs)
            for at in range(count)
        ]

    def restore(self, row: Row, blocks: Sequence[tuple[mx.array, ...]]) -> None:
        """Write blocks behind what an unjoined row holds, and lengthen it."""
        runs = [mx.concatenate(list(parts), axis=2) for parts in zip(*blocks, strict=True)]
        planes = [list(held) for held in row.bucket.planes]
        at = mx.array([row.length], mx.int32)
        for run, places in zip(runs, self.members, strict=True):
            for number, (leaf, plane) in enumerate(places):
                mine = run[number][None]
                planes[leaf][plane] = mx.slice_update(_plane(row, (leaf, plane)), mine, at, (2,))
        row.bucket.planes = [tuple(held) for held in planes]
        row.length += len(blocks) * self.block_size

    def to_bytes(self, arrays: Sequence[mx.array]) -> tuple[bytes, ...]:
        """Return evaluated arrays' bytes in C order, bit for bit."""
        return tuple(array_bytes(a) for a in arrays)

    def from_bytes(self, parts: Sequence[bytes]) -> tuple[mx.array, ...]:
        """Return the arrays of a block from their bytes.

        Raises:
            ValueError: A part has not the size that its group has.
        """
        return tuple(
            bytes_array(part, (g.planes, g.heads, self.block_size, g.width), g.dtype)
            for part, g in zip(parts, self.groups, strict=True)
        )


def array_bytes(array: mx.array) -> bytes:
    """Return the bytes of an array; waits for it if need be."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.array(array, copy=False).tobytes()


def bytes_array(data: bytes, shape: tuple[int, ...], dtype: str) -> mx.array:
    """Return the array whose bytes ``array_bytes`` gave."""
    array = mx.array(np.frombuffer(data, RAW[dtype]).reshape(shape))
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def row_state(store: BucketStore, row: Row) -> tuple[mx.array, ...]:
    """Return lazy copies of a row's recurrent state."""
    found: list[mx.array] = []
    part = slice(row.slot, row.slot + 1)
    for leaf, held in zip(store.layout.leaves, row.bucket.planes, strict=True):
        if not isinstance(leaf, AttentionLeaf):
            found += [mx.contiguous(a[part]) for a in held if a is not None]
    return tuple(found)


def put_state(store: BucketStore, row: Row, state: Sequence[mx.array]) -> None:
    """Give an unjoined row the state that ``row_state`` returned."""
    left = iter(state)
    planes: list[LeafPlanes] = []
    for leaf, held in zip(store.layout.leaves, row.bucket.planes, strict=True):
        if isinstance(leaf, AttentionLeaf):
            planes.append(held)
        else:
            planes.append(tuple(next(left) for _ in range(leaf.size)))
    row.bucket.planes = planes


def _plane(row: Row, place: tuple[int, int]) -> mx.array:
    leaf, plane = place
    held = row.bucket.planes[leaf][plane]
    assert held is not None
    return held
