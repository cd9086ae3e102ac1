"""Two ways to say one kernel: CUDA's and Metal's, each for mlx's own just-in-time compiler."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import mlx.core as mx
from attrs import frozen

DialectName = Literal["cuda", "metal"]
Launch = Callable[..., Sequence[mx.array]]


@frozen
class KernelSource:
    """One kernel as mlx wants it.

    Attributes:
        name: Unique to the text: mlx keeps what it compiled, also on disk, by name alone.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        header: Text before the function.
        body: Text inside the function.
        strided: Whether the body reads inputs by their strides.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    header: str
    body: str
    strided: bool = False


@frozen
class Dialect:
    """What the bodies leave open.

    Attributes:
        name: ``cuda`` or ``metal``.
        header: The capital verbs, as macros.
        prologue: Where the thread learns its number and its block's.
        types: Name of each dtype.
        shared_limit: Bytes of threadgroup memory that every device of the kind has.
        fill: Thread blocks that keep a large device of the kind busy.
    """

    name: DialectName
    header: str
    prologue: str
    types: Mapping[mx.Dtype, str]
    shared_limit: int
    fill: int


CUDA: Final = Dialect(
    name="cuda",
    header=r"""
#define DEVICE
#define SHARED __shared__
#define UNROLL _Pragma("unroll")
#define SYNC() __syncthreads()
#define XOR(v, o) __shfl_xor_sync(0xffffffffu, v, o)
#define FROM(v, lane) __shfl_sync(0xffffffffu, v, lane)
#define EXP2(x) exp2f(x)
#define LARGER(a, b) fmaxf(a, b)
#define SMALLER(a, b) fminf(a, b)
#define ABS(x) fabsf(x)
#define ROUND(x) roundf(x)
#define AS_FLOAT(w) __uint_as_float(w)
#define HALF_FLOAT(bits) __half2float(__ushort_as_half((unsigned short)(bits)))
#define READ4(p) __ldg((const uint4*)(p))
#define READ2(p) __ldg((const uint2*)(p))
""",
    prologue="const int group_id = blockIdx.x, thread_id = threadIdx.x;\n",
    types={mx.float32: "float", mx.bfloat16: "__nv_bfloat16", mx.float16: "__half"},
    shared_limit=48 * 1024,
    fill=528,
)
METAL: Final = Dialect(
    name="metal",
    header=r"""
#define DEVICE device
#define SHARED threadgroup
#define UNROLL _Pragma("clang loop unroll(full)")
#define SYNC() threadgroup_barrier(mem_flags::mem_threadgroup)
#define XOR(v, o) simd_shuffle_xor(v, ushort(o))
#define FROM(v, lane) simd_shuffle(v, ushort(lane))
#define EXP2(x) fast::exp2(x)
#define LARGER(a, b) max(float(a), float(b))
#define SMALLER(a, b) min(float(a), float(b))
#define ABS(x) abs(x)
#define ROUND(x) round(x)
#define AS_FLOAT(w) as_type<float>(uint32_t(w))
#define HALF_FLOAT(bits) float(as_type<half>(ushort(bits)))
#define READ4(p) (*(const device uint4*)(p))
#define READ2(p) (*(const device uint2*)(p))
""",
    prologue=(
        "const int group_id = threadgroup_position_in_grid.x;\n"
        "const int thread_id = thread_position_in_threadgroup.x;\n"
    ),
    types={mx.float32: "float", mx.bfloat16: "bfloat16_t", mx.float16: "float16_t"},
    shared_limit=32 * 1024,
    fill=256,
)
DIALECTS: Final[Mapping[DialectName, Dialect]] = {"cuda": CUDA, "metal": METAL}


def native_dialect() -> DialectName | None:
    """Return the dialect of the default device, or ``None`` on a CPU."""
    if mx.default_device() != mx.Device(mx.gpu):
        return None
    if mx.cuda.is_available():
        return "cuda"
    return "metal" if mx.metal.is_available() else None


def build(dialect: Dialect, source: KernelSource) -> Launch:
    """Hand ``source`` to mlx; it is compiled when it first runs."""
    make: Any = mx.fast.cuda_kernel if dialect.name == "cuda" else mx.fast.metal_kernel
    launch: Launch = make(
        name=source.name,
        input_names=source.inputs,
        output_names=source.outputs,
        source=source.body,
        header=source.header,
        ensure_row_contiguous=not source.strided,
    )
    return launch
