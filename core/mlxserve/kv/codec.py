"""The identity codec: keys and values as the model made them."""

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
from attrs import frozen

from mlxserve_hookspecs import KvSide, PlaneSpec


@frozen
class PlainCodec:
    """One plane, nothing changed; stands where no plugin answers ``make_kv_codec``."""

    @property
    def name(self) -> str:
        """Names the format."""
        return "plain"

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        """Return one plane of the side's own width and dtype."""
        return (PlaneSpec(side.width, side.dtype),)

    def encode(self, x: mx.array) -> tuple[mx.array, ...]:
        """Return ``x``."""
        return (x,)

    def decode(self, planes: Sequence[mx.array]) -> mx.array:
        """Return the only plane."""
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
