"""Run the kernels where a hang costs nothing: ``python -m mlxserve_plugins.fused.trial``."""

import sys
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final

import mlx.core as mx

from mlxserve_plugins.fused.kernels import Few, Turn, cuda, heads_source, product_source

INPUTS, OUTPUTS, DIM, TOLERANCE = 640, 80, 64, 2e-2


def _question() -> str:
    info: Any = mx.device_info()
    texts = [
        product_source("ONE", mx.bfloat16, 1, 16, ()),
        heads_source(mx.bfloat16, DIM, DIM, False, True),
    ]
    digest = sha256("".join(s.header + s.body for s in texts).encode()).hexdigest()[:16]
    return f"{version('mlx')} {info.get('device_name', '')} few {digest}"


QUESTION: Final = _question()


def fault(few: Few) -> str | None:
    """Compare every kind of kernel with mlx's own operations; return what is wrong."""
    for rows in (1, 11, 40, 64):
        x = _random(rows, 1, INPUTS)
        weights = [_random(OUTPUTS, INPUTS) for _ in range(3)]
        apart = [x @ w.T for w in weights]
        pairs = (
            ("product", few.product(x, weights[0]), apart[0]),
            ("sum", few.product(x, weights[0], None, apart[1]), apart[0] + apart[1]),
            ("gates", few.gated(x, *weights[:2]), _silu(apart[0]) * apart[1]),
            ("split", few.split(x, weights), mx.concatenate(apart, axis=-1)),
            *_heads(few, rows),
        )
        for name, ours, wanted in pairs:
            off = _off(ours, wanted)
            if not off <= TOLERANCE:
                return f"{name} of {rows} rows is off by {off:.2g} of its range"
    return None


def _heads(few: Few, rows: int) -> list[tuple[str, mx.array, mx.array]]:
    made, starts = _random(rows, 1, 4 * DIM), mx.arange(rows).astype(mx.int32) * 37
    weight = _random(DIM)
    inverse = 10000.0 ** -(mx.arange(0, DIM, 2) / DIM)
    found = few.heads(
        made, (2, 1), Turn(DIM, DIM, False, 1.0, inverse), starts, (weight, weight, 1e-6)
    )
    x = made[..., : 3 * DIM].reshape(rows, 1, 3, DIM)
    x = mx.fast.rms_norm(x, weight, 1e-6).transpose(0, 2, 1, 3)
    x = mx.fast.rope(x, DIM, traditional=False, base=10000.0, scale=1.0, offset=starts)
    return [("queries", found[0], x[:, :2]), ("keys", found[1], x[:, 2:])]


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(shape[0] + shape[-1])).astype(mx.bfloat16)


def _off(ours: mx.array, wanted: mx.array) -> float:
    a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
    return float((mx.abs(a - b).max() / mx.abs(b).max()).item())  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(fault(Few(cuda)) or 0)
