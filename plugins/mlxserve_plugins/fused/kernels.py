"""Kernels for passes of few rows: products with what follows, norm and rotation of heads.

mlx asks cuBLAS for a plan at every product of more than one row, which is some 20 microseconds
on the host, and a decode step has seven products a layer. These kernels read each weight once, at
the speed of memory, for up to 64 rows, and do in one operation what models write as two to seven.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final, Literal, TypeAlias

import mlx.core as mx
from attrs import frozen

ROWS: Final = 64
"""Most rows that the kernels take; more are bound by arithmetic, where cuBLAS is at home."""

WARPS, THREADS, CHUNK, TILE = 8, 256, 64, 8
MODES: Final = ("ONE", "PAIR", "SPLIT")
WIDE_TILES, WIDE_BLOCKS = 8, 64
"""From so many tiles on a block makes twice the outputs, if so many blocks are left."""

TYPES: Final[Mapping[mx.Dtype, str]] = {mx.bfloat16: "__nv_bfloat16", mx.float16: "__half"}
WORDS: Final[Mapping[mx.Dtype, str]] = {mx.bfloat16: "bf16", mx.float16: "f16"}

HEADER: Final = r"""
#define UNROLL _Pragma("unroll")
#define SYNC() __syncthreads()
#define XOR(v, o) __shfl_xor_sync(0xffffffffu, v, o)
#define EXP(x) expf(x)
#define RSQRT(x) rsqrtf(x)
#define SINCOS(x, s, c) sincosf(x, &(s), &(c))
#define READ4(p) __ldg((const uint4*)(p))
#define STREAM(to, p) asm("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];" \
    : "=r"((to).x), "=r"((to).y), "=r"((to).z), "=r"((to).w) : "l"(p))
#define MMA(c, a0, a1, a2, a3, b0, b1) asm( \
    "mma.sync.aligned.m16n8k16.row.col.f32." WORD "." WORD ".f32 " \
    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
    : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3]) \
    : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
"""
PROLOGUE: Final = "const int group_id = blockIdx.x, thread_id = threadIdx.x;\n"

Kind: TypeAlias = Literal["product", "gates", "attention"]
Mode: TypeAlias = Literal["ONE", "PAIR", "SPLIT"]
Launch: TypeAlias = Callable[..., Sequence[mx.array]]


@frozen
class Source:
    """One kernel's text.

    Attributes:
        name: Unique to the text: mlx keeps what it compiled by name.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        header: Text before the function.
        body: Text inside it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    header: str
    body: str


def tiles(rows: int) -> int:
    """Return how many tiles of rows a kernel computes: 1, 2, 4 or 8."""
    return 1 << max(-(-rows // TILE) - 1, 0).bit_length()


def what(kind: Kind, rows: int, *weights: mx.array) -> str:
    """Name what is run, by shapes; one row is a case of its own, for mlx has kernels for it."""
    outputs = "+".join(str(w.shape[0]) for w in weights)
    few = 1 if rows == 1 else tiles(rows) * TILE
    return f"{kind} {few} rows, {weights[0].shape[1]} to {outputs}"


def takes(weight: mx.array) -> bool:
    """Return whether there are kernels for a weight ``[outputs, inputs]``."""
    return weight.ndim == 2 and weight.dtype in TYPES and weight.shape[1] % CHUNK == 0  # noqa: PLR2004


@frozen
class Few:
    """The kernels. Builds lazy graphs only, also inside ``mx.compile``; one thread.

    Attributes:
        build: Makes a kernel of its text; a test puts an emulation here.
        slower: What mlx's own operations do faster on this device, as ``what`` names it.
    """

    build: Callable[[Source], Launch]
    slower: frozenset[str] = frozenset()

    def fits(self, kind: Kind, x: mx.array, *weights: mx.array) -> bool:
        """Return whether to run ``x`` ``[..., inputs]`` by a kernel: few rows, and it pays."""
        rows = x.size // x.shape[-1]
        same = rows <= ROWS and all(w.dtype == x.dtype for w in weights)
        return same and what(kind, rows, *weights) not in self.slower

    def product(
        self,
        x: mx.array,
        weight: mx.array,
        bias: mx.array | None = None,
        added: mx.array | None = None,
    ) -> mx.array:
        """Return ``x @ weight.T (+ bias) (+ added)``, ``[..., outputs]``.

        Args:
            x: ``[..., inputs]``, at most ``ROWS`` rows.
            weight: ``[outputs, inputs]``.
            bias: ``[outputs]``.
            added: ``[..., outputs]``.
        """
        named = {"bias0": bias, "added": added}
        return self._run("ONE", x, [weight], {k: v for k, v in named.items() if v is not None})

    def gated(self, x: mx.array, gate: mx.array, up: mx.array) -> mx.array:
        """Return ``silu(x @ gate.T) * (x @ up.T)``, ``[..., outputs]``."""
        return self._run("PAIR", x, [gate, up], {})

    def split(
        self, x: mx.array, weights: Sequence[mx.array], biases: Sequence[mx.array] = ()
    ) -> mx.array:
        """Return three products side by side, ``[..., sum of outputs]``."""
        return self._run("SPLIT", x, weights, {f"bias{n}": b for n, b in enumerate(biases)})

    def heads(
        self,
        projected: mx.array,
        heads: tuple[int, int],
        turn: "Turn",
        starts: mx.array,
        norm: tuple[mx.array, mx.array, float] | None,
    ) -> tuple[mx.array, mx.array]:
        """Return queries and keys ``[rows, heads, width, dim]``, normed and turned.

        Args:
            projected: ``[rows, width, outputs]``: heads of queries, of keys, and whatever follows.
            heads: How many heads of queries, and of keys.
            turn: The rotary embedding.
            starts: ``[rows]`` int32, each row's position.
            norm: Weights of both norms ``[dim]``, and epsilon.
        """
        rows, width, across = projected.shape
        count = rows * width * sum(heads)
        source = heads_source(projected.dtype, turn.dim, turn.turned, turn.traditional, bool(norm))
        facts = mx.array([rows * width, width, across, *heads], mx.int32)
        floats = mx.array([norm[2] if norm else 0.0, turn.scale], mx.float32)
        made = self.build(source)(
            inputs=[projected, starts, turn.inverse, facts, floats, *(norm[:2] if norm else ())],
            grid=(-(-count // WARPS) * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(rows, n, width, turn.dim) for n in heads],
            output_dtypes=[projected.dtype] * 2,
        )
        return made[0], made[1]

    def _run(
        self,
        mode: Mode,
        x: mx.array,
        weights: Sequence[mx.array],
        more: Mapping[str, mx.array],
    ) -> mx.array:
        inputs = x.shape[-1]
        rows, outputs = x.size // inputs, [w.shape[0] for w in weights]
        wide = mode != "PAIR" and tiles(rows) >= WIDE_TILES and min(outputs) // 32 >= WIDE_BLOCKS
        span = 32 if wide else 16
        source = product_source(mode, x.dtype, tiles(rows), span, tuple(more))
        across = outputs[0] if mode == "PAIR" else sum(outputs)
        blocks = sum(-(-n // span) for n in (outputs[:1] if mode == "PAIR" else outputs))
        return self.build(source)(
            inputs=[x, *weights, mx.array([rows, inputs, *outputs], mx.int32), *more.values()],
            grid=(blocks * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(*x.shape[:-1], across)],
            output_dtypes=[x.dtype],
        )[0]


@frozen(eq=False)
class Turn:
    """A rotary embedding.

    Attributes:
        dim: Numbers in a head.
        turned: How many of them are turned.
        traditional: Whether neighbours make a pair, not those half of ``turned`` apart.
        scale: Multiplies positions.
        inverse: ``[turned / 2]`` float32, radians a position.
    """

    dim: int
    turned: int
    traditional: bool
    scale: float
    inverse: mx.array


@cache
def product_source(
    mode: Mode, dtype: mx.Dtype, count: int, span: int, more: tuple[str, ...]
) -> Source:
    """Return the kernel that makes one product, a gated pair, or three side by side."""
    weights = {"ONE": 1, "PAIR": 2, "SPLIT": 3}[mode]
    features = span // 16 * (2 if mode == "PAIR" else 1)
    constants = {
        **{name: number for number, name in enumerate(MODES)},
        "MODE": MODES.index(mode),
        "TILES": count,
        "SPAN": span,
        "FEATURES": features,
        "DEPTH": max((4 if count <= 2 else 2) // features, 1),  # noqa: PLR2004
        "BIAS": int("bias0" in more),
        "ADD": int("added" in more),
    }
    inputs = ("x", *(f"weight{n}" for n in range(weights)), "facts", *more)
    return _source("product", dtype, constants, inputs, ("out",))


@cache
def heads_source(dtype: mx.Dtype, dim: int, turned: int, traditional: bool, norm: bool) -> Source:
    """Return the kernel that norms and turns heads."""
    constants = {
        "DIM": dim,
        "TURNED": turned,
        "EACH": -(-dim // 32),
        "TRADITIONAL": int(traditional),
        "NORM": int(norm),
    }
    norms = ("query_norm", "key_norm") if norm else ()
    inputs = ("projected", "starts", "inverse", "facts", "floats", *norms)
    return _source("heads", dtype, constants, inputs, ("queries", "keys"))


def _source(
    purpose: str,
    dtype: mx.Dtype,
    constants: Mapping[str, int],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> Source:
    shared = {"WARPS": WARPS, "THREADS": THREADS}
    defines = "".join(f"#define {key} {value}\n" for key, value in {**shared, **constants}.items())
    word = f'#define WORD "{WORDS[dtype]}"\n'
    text = f"{defines}typedef {TYPES[dtype]} T;\n{PROLOGUE}{_body(purpose)}"
    header = f"{word}{HEADER}"
    digest = sha256(f"{header}{text}{inputs}{outputs}".encode()).hexdigest()[:16]
    return Source(f"few_{purpose}_{digest}", inputs, outputs, header, text)


def _body(purpose: str) -> str:
    path = files(__package__).joinpath("bodies", f"{purpose}.body")
    return path.read_text(encoding="utf-8")


@cache
def cuda(source: Source) -> Launch:
    """Hand ``source`` to mlx; it is compiled when it first runs."""
    make: Any = mx.fast.cuda_kernel
    launch: Launch = make(
        name=source.name,
        input_names=source.inputs,
        output_names=source.outputs,
        source=source.body,
        header=source.header,
    )
    return launch
