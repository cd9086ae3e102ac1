"""The kernels of a model's layers on this device, once they have shown that they are right."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from attrs import define, field

from mlxserve.attention.dialect import DialectName, native_dialect
from mlxserve.attention.ragged import RaggedKernel, supports
from mlxserve.attention.trial import Case, verdict
from mlxserve.model.causal import CausalModel
from mlxserve.pool.planes import LeafCodec
from mlxserve_hookspecs import WordFormat


@define(eq=False)
class Kernels:
    """Makes layers' kernels; layers of one shape share them.

    Attributes:
        dialect: The device's.
        block_size: Tokens per block.
        group: Query heads that share one of keys and values.
        notes: Told what is not used, and why.
        verdict: Tries a kernel; returns why it is not to be used, if it is not.
    """

    dialect: DialectName
    block_size: int
    group: int
    notes: list[str]
    verdict: Callable[[Case], str | None] = verdict
    _made: dict[tuple[Any, ...], "LayerKernel | None"] = field(factory=dict)

    @classmethod
    def native(cls, model: CausalModel, block_size: int, notes: list[str]) -> "Kernels | None":
        """Return the device's kernels; ``None`` where it has none.

        Args:
            model: Whose layers they are for.
            block_size: Tokens per block.
            notes: Told what is tried and not used, and why.
        """
        dialect = native_dialect()
        return None if dialect is None else cls(dialect, block_size, _group(model), notes)

    def of(self, leaf: LeafCodec) -> "LayerKernel | None":
        """Return the kernel of a layer; ``None`` where there is none for its codec."""
        words = leaf.codec.words
        if words is None or leaf.keys.heads != leaf.values.heads:
            return None
        facts = (words, leaf.keys.heads, leaf.keys.width, leaf.values.width, leaf.keys.dtype)
        if facts not in self._made:
            self._made[facts] = self._make(*facts)
        return self._made[facts]

    def _make(
        self, words: WordFormat, heads: int, key_width: int, value_width: int, dtype: mx.Dtype
    ) -> "LayerKernel | None":
        reason = supports(
            words,
            heads=heads * self.group,
            kv_heads=heads,
            key_width=key_width,
            value_width=value_width,
            dtype=dtype,
        )
        if reason is None:
            case = Case(
                bits=words.bits,
                group_size=words.group_size,
                heads=heads * self.group,
                kv_heads=heads,
                key_width=key_width,
                value_width=value_width,
                dtype=str(dtype).removeprefix("mlx.core."),
                block_size=self.block_size,
                dialect=self.dialect,
            )
            reason = self.verdict(case)
        if reason is not None:
            self.notes.append(f"no kernel for heads of {key_width}: {reason}")
            return None
        return LayerKernel(
            words, heads, key_width, value_width, dtype, self.block_size, self.dialect
        )


def _group(model: CausalModel) -> int:
    """Return how many query heads share one of keys and values, as the configuration says."""
    args = getattr(model, "args", None)
    heads, kv_heads = (
        getattr(args, name, None) for name in ("num_attention_heads", "num_key_value_heads")
    )
    sound = isinstance(heads, int) and isinstance(kv_heads, int) and kv_heads > 0
    return max(heads // kv_heads, 1) if sound else 1  # type: ignore[operator]


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
