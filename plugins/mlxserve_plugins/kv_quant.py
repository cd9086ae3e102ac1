"""Hold keys and values in 8 bits (or fewer): about half the memory of 16-bit ones."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final, Literal

from attrs import define, field, frozen
from attrs.validators import in_

from mlxserve_hookspecs import (
    Array,
    KvCodec,
    KvSide,
    PlaneSpec,
    Side,
    WordFormat,
    hookimpl,
    option,
)
from mlxserve_hookspecs.verdicts import Verdicts

OFF: Final = 16
PROBE_ROWS, PROBE_TOKENS, PROBE_RUNS = 4, 512, 5


@frozen
class KvQuantOptions:
    """Quantized KV; 8 bits in groups of 64 are 8.5 bits a value, with 16-bit scales and biases."""

    bits: Literal[2, 3, 4, 5, 6, 8, 16] = option(
        8, "KV cache quantization (8 = INT8, 16 = off)", flag="--kv-bits", common=True
    )
    group_size: Literal[32, 64, 128] = option(
        64, "elements per quantization scale", flag="--kv-group-size", check=in_((32, 64, 128))
    )
    attention: Literal["auto", "quantized", "dequantize"] = option(
        "auto", "read planes as they are, or dequantize first; auto measures", flag="--kv-attention"
    )


@define
class KvQuant:
    """Affine quantization of every attention layer that the group size divides."""

    options: KvQuantOptions
    _measured: dict[str, bool] = field(factory=dict)

    @hookimpl
    def make_kv_codec(self, keys: KvSide, values: KvSide) -> KvCodec | None:
        """Decline layers whose heads the group size does not divide."""
        options = self.options
        if (
            options.bits == OFF
            or keys.width % options.group_size
            or values.width % options.group_size
        ):
            return None
        plain = AffineCodec(options.bits, options.group_size, keys.dtype, dequantize=True)
        if options.attention != "auto":
            return plain.reading(dequantize=options.attention == "dequantize")
        return plain.reading(dequantize=not self._quantized_is_faster(plain, keys, values))

    def _quantized_is_faster(self, codec: "AffineCodec", keys: KvSide, values: KvSide) -> bool:
        """Measure once per machine and shape: what a layer reads must not change between runs."""
        name = _shape_name(codec, keys, values)
        if name not in self._measured:
            memory = Verdicts("kv-attention")
            known = memory.known()
            if name not in known:
                known[name] = _compare(codec, keys, values)
                memory.put(name, known[name])
            self._measured[name] = known[name]
        return self._measured[name]


@frozen
class AffineCodec:
    """Planes of mlx's affine quantization: packed codes, scales, biases.

    Attributes:
        bits: Bits per value.
        group_size: Values that share a scale and a bias, along the head dimension.
        dtype: What the model computes in; scales and biases have it too.
        dequantize: Whether attention dequantizes first and runs the fused kernel.
    """

    bits: int
    group_size: int
    dtype: Any
    dequantize: bool

    @property
    def name(self) -> str:
        """Names the format; how attention reads it does not change what is stored."""
        return f"affine-{self.bits}-{self.group_size}"

    def reading(self, *, dequantize: bool) -> "AffineCodec":
        """Return the same format read the other way."""
        return AffineCodec(self.bits, self.group_size, self.dtype, dequantize)

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        """Return packed codes, scales and biases."""
        import mlx.core as mx  # noqa: PLC0415 - the module is read by people without mlx

        groups = PlaneSpec(side.width // self.group_size, side.dtype)
        return (PlaneSpec(side.width * self.bits // 32, mx.uint32), groups, groups)

    @property
    def words(self) -> WordFormat | None:
        """What kernels read: 8 and 4 bits."""
        kernels = self.bits in (4, 8)
        return WordFormat(bits=self.bits, group_size=self.group_size) if kernels else None

    def encode(self, x: Array, side: Side) -> tuple[Array, ...]:
        """Quantize, token by token."""
        import mlx.core as mx  # noqa: PLC0415

        del side

        return tuple(mx.quantize(x, group_size=self.group_size, bits=self.bits))

    def decode(self, planes: Sequence[Array], side: Side) -> Array:
        """Dequantize."""
        import mlx.core as mx  # noqa: PLC0415

        del side

        codes, scales, biases = planes
        return mx.dequantize(codes, scales, biases, group_size=self.group_size, bits=self.bits)

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
        """Attend the faster way, by what was measured for a decode step.

        Several tokens a row dequantize first: there the products dominate, and not every backend
        has quantized kernels for those shapes. The quantized kernels know no sinks either.
        """
        import mlx.core as mx  # noqa: PLC0415
        from mlx_lm.models.base import quantized_scaled_dot_product_attention  # noqa: PLC0415

        if self.dequantize or queries.shape[2] > 1 or sinks is not None:
            return mx.fast.scaled_dot_product_attention(
                queries,
                self.decode(keys, "keys"),
                self.decode(values, "values"),
                scale=scale,
                mask=mask,
                sinks=sinks,
            )
        seen: Any = mask  # mlx-lm takes "causal" too, and does not say so
        own = queries + 0  # mlx-lm scales them in place, and a model may still need them
        return quantized_scaled_dot_product_attention(
            own, tuple(keys), tuple(values), scale, seen, self.group_size, self.bits
        )


def _compare(codec: AffineCodec, keys: KvSide, values: KvSide) -> bool:
    """Return whether reading quantized planes is faster, for a decode step of a few rows."""
    try:
        quantized = _seconds(codec.reading(dequantize=False), keys, values)
    except (RuntimeError, ValueError):  # no kernel for this shape on this backend
        return False
    return quantized < _seconds(codec.reading(dequantize=True), keys, values)


def _seconds(codec: AffineCodec, keys: KvSide, values: KvSide) -> float:
    import mlx.core as mx  # noqa: PLC0415

    def held(side: KvSide) -> tuple[Array, ...]:
        shape = (PROBE_ROWS, side.heads, PROBE_TOKENS, side.width)
        return codec.encode(mx.random.normal(shape).astype(side.dtype), side.side)

    k, v = held(keys), held(values)
    queries = mx.random.normal((PROBE_ROWS, keys.heads, 1, keys.width)).astype(keys.dtype)
    mask = mx.ones((PROBE_ROWS, 1, 1, PROBE_TOKENS), mx.bool_)

    def once() -> None:
        mx.eval(codec.attend(queries, k, v, scale=1.0, mask=mask, sinks=None))

    mx.eval(k, v, queries, mask)
    once()
    return min(_time(once) for _ in range(PROBE_RUNS))


def _time(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _shape_name(codec: AffineCodec, keys: KvSide, values: KvSide) -> str:
    import mlx.core as mx  # noqa: PLC0415

    device = mx.device_info().get("device_name", mx.default_device())
    shape = f"{keys.heads}x{keys.width}x{values.width} {keys.dtype}"
    return f"{version('mlx')} {device} {codec.name} {shape}"
