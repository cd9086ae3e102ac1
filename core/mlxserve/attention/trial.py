"""Try a kernel in a process of its own first: one that hangs or aborts must not cost the start.

The verdict is kept, for this device, this version of mlx and this text of the kernel.
"""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import mlx.core as mx
from attrs import asdict, frozen

from mlxserve.attention.ragged import RaggedKernel
from mlxserve_hookspecs import WordFormat
from mlxserve_hookspecs.verdicts import Verdicts, tried

SECONDS: Final = 120.0
"""How long a kernel may take to be compiled and run."""

TOKENS, BLOCK = 70, 16
TOLERANCE: Final = {mx.float32: 1e-3, mx.bfloat16: 4e-2, mx.float16: 1e-2}


@frozen(kw_only=True)
class Case:
    """One kind of layer, in words that travel to another process."""

    bits: int
    group_size: int
    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    dtype: str
    block_size: int
    dialect: str

    @property
    def kernel(self) -> RaggedKernel:
        """The kernel to try."""
        return RaggedKernel(
            format=WordFormat(bits=self.bits, group_size=self.group_size),
            heads=self.heads,
            kv_heads=self.kv_heads,
            key_width=self.key_width,
            value_width=self.value_width,
            dtype=getattr(mx, self.dtype),
            block_size=self.block_size,
            dialect=self.dialect,  # type: ignore[arg-type]
        )


def verdict(case: Case, command: Sequence[str] = (), memory: Verdicts | None = None) -> str | None:
    """Return why the kernel is not to be used, or ``None``; tried once, then remembered.

    Args:
        case: The kind of layer.
        command: Runs the trial; this module by default.
        memory: Where verdicts are kept.
    """
    verdicts, name = memory or Verdicts("kernels"), _name(case)
    known = verdicts.known()
    if name not in known:
        run = command or (sys.executable, "-m", __spec__.name)
        known[name] = tried((*run, json.dumps(asdict(case))), SECONDS)
        verdicts.put(name, known[name])
    found: str | None = known[name]
    return found


def fault(case: Case) -> str | None:
    """Run the kernel here and compare it with mlx's own attention; return what is wrong."""
    kernel, dtype = case.kernel, getattr(mx, case.dtype)
    keys, values = (
        mx.random.normal((1, case.kv_heads, TOKENS, width), key=mx.random.key(width)).astype(dtype)
        for width in (case.key_width, case.value_width)
    )
    words = kernel.pack(keys, values)[0]
    plane = mx.pad(words, [(case.block_size, -TOKENS % case.block_size), (0, 0), (0, 0)])
    blocks = -(-TOKENS // case.block_size)
    table = mx.arange(1, blocks + 1)[None].astype(mx.int32)
    worst = 0.0
    for width in (1, 3):
        queries = mx.random.normal((1, case.heads, width, case.key_width)).astype(dtype)
        starts = mx.array([TOKENS - width], mx.int32)
        scale = case.key_width**-0.5
        ours = kernel.attend(queries, plane, table, starts, scale=scale)
        k, v = (_rounded(x, case) for x in (keys, values))
        mask = "causal" if width > 1 else None
        wanted = mx.fast.scaled_dot_product_attention(queries, k, v, scale=scale, mask=mask)
        difference: Any = mx.abs(ours.astype(mx.float32) - wanted.astype(mx.float32)).max().item()
        worst = max(worst, difference)
    return None if worst <= TOLERANCE[dtype] else f"it is off by {worst:.2g}"


def _rounded(x: mx.array, case: Case) -> mx.array:
    if not case.bits:
        return x
    size, bits = case.group_size, case.bits
    return mx.dequantize(*mx.quantize(x, size, bits), group_size=size, bits=bits)


def _name(case: Case) -> str:
    info: Any = mx.device_info()
    return f"{version('mlx')} {info.get('device_name', '')} {case.kernel.digest} {case}"


if __name__ == "__main__":
    sys.exit(fault(Case(**json.loads(sys.argv[1]))) or 0)
