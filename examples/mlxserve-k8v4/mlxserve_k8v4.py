"""Hold keys in 8 bits and values in 4: three quarters of what 8 bits for both take.

Scores are more sensitive to errors of the keys than the output is to those of the values (KIVI,
Liu et al. 2024), so that the keys get the bits.
"""

from collections.abc import Sequence
from typing import Final, Literal

from attrs import define, frozen

from mlxserve_hookspecs import Array, Dtype, KvCodec, KvSide, PlaneSpec, Side, hookimpl, option

BITS: Final[dict[Side, int]] = {"keys": 8, "values": 4}


@frozen
class K8V4Options:
    """Keys in 8 bits, values in 4."""

    group_size: Literal[32, 64, 128] = option(
        64, "elements per quantization scale", flag="--k8v4-group-size"
    )


@define
class K8V4:
    """Two formats in one codec: each side of a layer has its own."""

    options: K8V4Options

    @hookimpl
    def make_kv_codec(self, keys: KvSide, values: KvSide) -> KvCodec | None:
        """Decline layers whose heads the group size does not divide."""
        size = self.options.group_size
        if keys.width % size or values.width % size:
            return None
        return K8V4Codec(size, keys.dtype)


@frozen
class K8V4Codec:
    """Planes of each side: packed codes, scales, biases, as mlx quantizes.

    Attributes:
        group_size: Values that share a scale and a bias, along the head dimension.
        dtype: What the model computes in; scales and biases have it too.
        words: Kernels that read planes know one format for both sides: there is none.
    """

    group_size: int
    dtype: Dtype
    words: None = None

    @property
    def name(self) -> str:
        """Names the formats."""
        return f"k8v4-{self.group_size}"

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        """Return packed codes, as many bits as the side has, then scales and biases."""
        import mlx.core as mx  # noqa: PLC0415 - the module is read by people without mlx

        factors = PlaneSpec(side.width // self.group_size, side.dtype)
        return (PlaneSpec(side.width * BITS[side.side] // 32, mx.uint32), factors, factors)

    def encode(self, x: Array, side: Side) -> tuple[Array, ...]:
        """Quantize, token by token."""
        import mlx.core as mx  # noqa: PLC0415

        return tuple(mx.quantize(x, group_size=self.group_size, bits=BITS[side]))

    def decode(self, planes: Sequence[Array], side: Side) -> Array:
        """Dequantize."""
        import mlx.core as mx  # noqa: PLC0415

        codes, scales, biases = planes
        return mx.dequantize(codes, scales, biases, group_size=self.group_size, bits=BITS[side])

    def attend(
        self,
        queries: Array,
        keys: Sequence[Array],
        values: Sequence[Array],
        *,
        scale: float,
        mask: Array | Literal["causal"] | None,
        sinks: Array | None,
    ) -> Array:
        """Dequantize and attend."""
        import mlx.core as mx  # noqa: PLC0415

        held = self.decode(keys, "keys"), self.decode(values, "values")
        return mx.fast.scaled_dot_product_attention(
            queries, *held, scale=scale, mask=mask, sinks=sinks
        )
