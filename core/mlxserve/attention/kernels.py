"""The kernels of a model's layers on the device at hand, once they have shown that they are right."""

from typing import Any

import mlx.core as mx
from attrs import define, field

from mlxserve.attention.dialect import DialectName, native_dialect
from mlxserve.attention.ragged import RaggedKernel, supports
from mlxserve.pool.planes import LeafCodec
from mlxserve_hookspecs import WordFormat


@define(eq=False)
class Kernels:
    """Makes layers' kernels; layers of one shape share them."""

    dialect: DialectName
    block_size: int
    _made: dict[tuple[Any, ...], "LayerKernel"] = field(factory=dict)

    @classmethod
    def native(cls, facts: Any, block_size: int, notes: list[str]) -> "Kernels | None":
        """Return the device's kernels, or ``None`` and, if that is no matter of course, a note."""
        del facts, notes
        dialect = native_dialect()
        return None if dialect is None else cls(dialect, block_size)

    def of(self, leaf: LeafCodec) -> "LayerKernel | None":
        """Return the kernel of a layer; ``None`` where there is none for its codec."""
        words = leaf.codec.words
        if words is None or leaf.keys.heads != leaf.values.heads:
            return None
        facts = (words, leaf.keys.heads, leaf.keys.width, leaf.values.width, leaf.keys.dtype)
        if supports(
            words,
            heads=leaf.keys.heads,
            kv_heads=leaf.keys.heads,
            key_width=leaf.keys.width,
            value_width=leaf.values.width,
            dtype=leaf.keys.dtype,
        ):
            return None
        if facts not in self._made:
            self._made[facts] = LayerKernel(*facts, self.block_size, self.dialect)
        return self._made[facts]


@define(eq=False)
class LayerKernel:
    """Implements ``Kernel``; how many query heads there are shows when they come."""

    words: WordFormat
    kv_heads: int
    key_width: int
    value_width: int
    dtype: mx.Dtype
    block_size: int
    dialect: DialectName
    _by_heads: dict[int, RaggedKernel] = field(factory=dict)

    def attend(
        self,
        queries: mx.array,
        plane: mx.array,
        table: mx.array,
        starts: mx.array,
        *,
        scale: float,
        window: int | None = None,
        keep: int = 0,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Attend; see ``RaggedKernel``."""
        return self._of(queries.shape[1]).attend(
            queries, plane, table, starts, scale=scale, window=window, keep=keep, sinks=sinks
        )

    def pack(self, keys: mx.array, values: mx.array) -> mx.array:
        """Pack; see ``RaggedKernel``."""
        return self._of(self.kv_heads).pack(keys, values)

    def _of(self, heads: int) -> RaggedKernel:
        if heads not in self._by_heads:
            self._by_heads[heads] = RaggedKernel(
                format=self.words,
                heads=heads,
                kv_heads=self.kv_heads,
                key_width=self.key_width,
                value_width=self.value_width,
                dtype=self.dtype,
                block_size=self.block_size,
                dialect=self.dialect,
            )
        return self._by_heads[heads]
