"""The identity codec: keys and values as the model made them."""

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
from attrs import field, frozen

from mlxserve_hookspecs import KvSide, PlaneSpec, WordFormat


@frozen
class PlainCodec:
    """One plane, nothing changed; stands where no plugin answers ``make_kv_codec``."""

    name: str = "plain"
    words: WordFormat | None = field(factory=WordFormat)

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        """Return one plane of the side's own width and dtype."""
        return (PlaneSpec(side.width, side.dtype),)

    def encode(self, x: mx.array, side: Literal["keys", "values"]) -> tuple[mx.array, ...]:
        """Return ``x``."""
        del side
        return (x,)

    def decode(self, planes: Sequence[mx.array], side: Literal["keys", "values"]) -> mx.array:
        """Return the only plane."""
        del side
        return planes[0]

    def attend(
        self,
        queries: mx.array,
        keys: Sequence[mx.array],
        values: Sequence[mx.array],
        *,
        scale: float,
        mask: mx.array | Literal["causal"] | None,
        sinks: mx.array | None,
    ) -> mx.array:
        """Run mlx's fused attention."""
        return mx.fast.scaled_dot_product_attention(
            queries, keys[0], values[0], scale=scale, mask=mask, sinks=sinks
        )
