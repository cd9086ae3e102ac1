"""The kernels' text, compiled with g++: tensor cores as shuffles between lanes."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from tests.core.attention.emulation.build import Emulated

from mlxserve.attention.dialect import CUDA, KernelSource
from mlxserve_plugins.fused.kernels import Source

INSTEAD = """
#undef STREAM
#undef MMA
#undef RSQRT
#undef READ4
inline uint4 read_(const void* from) {  // mlx's arrays on a CPU are not aligned to 16 bytes
  uint4 got;
  std::memcpy(&got, from, sizeof(got));
  return got;
}
#define READ4(p) read_(p)
#define STREAM(to, p) to = read_(p)
#define RSQRT(x) (1.f / std::sqrt(x))
template <class V>
void mma_(float* c, V a0, V a1, V a2, V a3, V b0, V b1) {
  // a: 16 rows of 16, two numbers a word, lane 4 * row + column pair; b alike, 8 columns
  const int lane = emu::lane % 32, g = lane / 4, t = lane % 4;
  const V a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  for (int q = 0; q < 4; q++)
    for (int half = 0; half < 2; half++)
      for (int column = 0; column < 2; column++) {
        const V y = emu::exchange(b[half], (2 * t + column) * 4 + q);
        for (int row = 0; row < 2; row++) {
          const V x = emu::exchange(a[row + 2 * half], g * 4 + q);
          for (int n = 0; n < 2; n++)
            c[row * 2 + column] += number_(x, n) * number_(y, n);
        }
      }
}
#define MMA(c, a0, a1, a2, a3, b0, b1) mma_(c, a0, a1, a2, a3, b0, b1)
"""
NUMBERS = {
    "bf16": "inline float number_(unsigned w, int n) "
    "{ return emu::same_bits<float>(n ? w & 0xffff0000u : w << 16); }\n",
    "f16": "inline float number_(unsigned w, int n) "
    "{ return float(emu::same_bits<emu::Half>((unsigned short)(n ? w >> 16 : w))); }\n",
}


def build(source: Source) -> Callable[..., Sequence[mx.array]]:
    """Return ``source`` as something that runs here."""
    kind = "bf16" if '"bf16"' in source.header else "f16"
    header = source.header + NUMBERS[kind] + INSTEAD
    found = KernelSource(source.name, source.inputs, source.outputs, header, source.body)
    launch: Any = Emulated(CUDA, found, ties_to_even=False)
    return launch  # type: ignore[no-any-return]
