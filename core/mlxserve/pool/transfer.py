"""Blocks on their way between planes and bytes: all layers' planes of a kind travel together."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from attrs import frozen

from mlxserve.pool.pool import Pool
from mlxserve.pool.table import Row
from mlxserve_hookspecs import BlockArray

NAMES = {
    mx.float32: "F32",
    mx.bfloat16: "BF16",
    mx.float16: "F16",
    mx.uint32: "U32",
    mx.uint8: "U8",
    mx.int32: "I32",
    mx.int64: "I64",
    mx.bool_: "BOOL",
}
RAW = {
    "F32": np.float32,
    "BF16": np.uint16,
    "F16": np.float16,
    "U32": np.uint32,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}
"""What numpy reads a dtype's bytes as; it has no bfloat16."""


@frozen
class Kind:
    """One array of every block.

    Attributes:
        group: The group whose planes it has.
        places: Those planes, as (leaf, plane of the leaf).
        array: Shape and dtype of one block's.
    """

    group: int
    places: tuple[tuple[int, int], ...]
    array: BlockArray


@frozen(eq=False)
class Exported:
    """Copies of consecutive blocks of a row, on the device.

    Attributes:
        count: How many blocks.
        runs: Per kind ``[blocks, ...]``; ``None`` where the row gave the blocks back.
    """

    count: int
    runs: tuple[mx.array | None, ...]

    @property
    def arrays(self) -> list[mx.array]:
        """What to evaluate."""
        return [run for run in self.runs if run is not None]

    def to_bytes(self) -> list[tuple[bytes, ...]]:
        """Return each block's arrays as bytes in C order; waits for them if need be."""
        raw = [None if run is None else host(run) for run in self.runs]
        return [
            tuple(b"" if run is None else run[at].tobytes() for run in raw)
            for at in range(self.count)
        ]


@frozen(eq=False)
class Transfer:
    """Knows where each plane lies in a block's arrays."""

    pool: Pool
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, pool: Pool) -> "Transfer":
        """Put planes of one shape and dtype together, group by group, in order of appearance."""
        kinds: list[Kind] = []
        for number, group in enumerate(pool.groups):
            found: dict[tuple[tuple[int, ...], mx.Dtype], list[tuple[int, int]]] = {}
            for leaf in group.leaves:
                codec = pool.shape.codecs[leaf]
                assert codec is not None
                for plane, spec in enumerate(pool.shape.arrangement.shapes(codec, pool.size)):
                    found.setdefault(spec, []).append((leaf, plane))
            for (shape, dtype), places in found.items():
                array = BlockArray(
                    shape=(len(places), *shape), dtype=NAMES[dtype], optional=number > 0
                )
                kinds.append(Kind(number, tuple(places), array))
        return cls(pool, tuple(kinds))

    def export(self, numbers: Sequence[Sequence[int]]) -> Exported:
        """Return lazy copies of blocks, by their numbers in each group; 0 is not there."""
        runs: list[mx.array | None] = []
        for kind in self.kinds:
            mine = numbers[kind.group]
            if not all(mine):
                runs.append(None)
                continue
            parts = [self._blocks(self._plane(place), mine) for place in kind.places]
            runs.append(mx.stack(parts, axis=1))
        return Exported(len(numbers[0]) if numbers else 0, tuple(runs))

    def _blocks(self, plane: mx.array, numbers: Sequence[int]) -> mx.array:
        """Return ``[blocks, ...]`` of a plane."""
        size = self.pool.size
        if not self.pool.shape.arrangement.axis:
            held = plane.reshape(-1, size, *plane.shape[1:])
            return mx.take(held, mx.array(list(numbers), mx.int32), axis=0)
        parts = [plane[:, n * size : (n + 1) * size] for n in numbers]
        return mx.stack(parts)

    def restore(
        self, row: Row, at: Sequence[Sequence[int]], blocks: Mapping[int, Sequence[bytes]]
    ) -> None:
        """Write blocks of bytes.

        Args:
            row: Who has the blocks.
            at: Which of ``blocks`` are needed, by group.
            blocks: By index in the row: each one's arrays as bytes, one per kind.
        """
        for number, kind in enumerate(self.kinds):
            wanted = at[kind.group]
            if not wanted:
                continue
            table = row.tables[kind.group]
            parts = [blocks[index][number] for index in wanted]
            run = bytes_array(b"".join(parts), (len(wanted), *kind.array.shape), kind.array.dtype)
            slots = [s for i in wanted for s in table.slots(i * table.size, (i + 1) * table.size)]
            self._write(kind, run, mx.array(slots, mx.int32))

    def _write(self, kind: Kind, run: mx.array, where: mx.array) -> None:
        for place, (leaf, plane) in enumerate(kind.places):
            held: Any = self.pool.data[leaf][plane]
            mine = run[:, place]
            if self.pool.shape.arrangement.axis:
                heads, width = mine.shape[1], mine.shape[3]
                held[:, where] = mine.transpose(1, 0, 2, 3).reshape(heads, -1, width)
            else:
                held[where] = mine.reshape(-1, *mine.shape[2:])

    def fits(self, blocks: Sequence[bytes]) -> bool:
        """Return whether a block's bytes have the sizes that its arrays have."""
        sizes = [kind.array.nbytes for kind in self.kinds]
        pairs = zip(blocks, sizes, self.kinds, strict=False)
        return len(blocks) == len(sizes) and all(
            len(b) == size or (not b and kind.array.optional) for b, size, kind in pairs
        )

    def _plane(self, place: tuple[int, int]) -> mx.array:
        leaf, plane = place
        held: Any = self.pool.data[leaf][plane]
        return held  # type: ignore[no-any-return]


def host(array: mx.array) -> "np.ndarray[Any, Any]":
    """Return an array in host memory, bfloat16 as 16-bit words; waits for it if need be."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.array(array, copy=False)


def array_bytes(array: mx.array) -> bytes:
    """Return the bytes of an array; waits for it if need be."""
    return host(array).tobytes()


def bytes_array(data: bytes, shape: tuple[int, ...], dtype: str) -> mx.array:
    """Return the array whose bytes ``array_bytes`` gave."""
    array = mx.array(np.frombuffer(data, RAW[dtype]).reshape(shape))
    return array.view(mx.bfloat16) if dtype == "BF16" else array
