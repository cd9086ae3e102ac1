"""Compile a kernel's source with g++ and run it on mlx arrays, as mlx would on a device."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from attrs import frozen

from mlxserve.attention.dialect import Dialect, KernelSource

HERE = Path(__file__).parent
FLAGS = ("-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", f"-I{HERE}")
WORDS: Mapping[str, Mapping[mx.Dtype, str]] = {
    "cuda": {mx.float32: "float", mx.bfloat16: "__nv_bfloat16", mx.float16: "__half"},
    "metal": {mx.float32: "float", mx.bfloat16: "bfloat16_t", mx.float16: "float16_t"},
}
INTEGERS = {mx.int32: "int32_t", mx.uint32: "uint32_t"}
BYTES: Mapping[int, Any] = {2: np.uint16, 4: np.uint32}
GXX = shutil.which("g++")


@frozen
class Emulated:
    """One kernel, callable as mlx's kernels are."""

    dialect: Dialect
    source: KernelSource
    ties_to_even: bool

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:
        """Run every thread block, one after the other."""
        text = self._program([x.dtype for x in inputs], output_dtypes)
        run = library(text, self.ties_to_even).launch
        given = [bits(x if self.source.strided else mx.contiguous(x)) for x in inputs]
        made = [
            # what a kernel does not write must show
            np.full(shape, np.iinfo(BYTES[dtype.size]).max, BYTES[dtype.size])
            for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
        ]
        buffers = [*given, *made]
        pointers = (ctypes.c_void_p * len(buffers))(*(x.ctypes.data for x in buffers))
        steps = [[s // x.itemsize for s in x.strides] + [0] * (10 - x.ndim) for x in given]
        strides = (ctypes.c_int64 * (10 * len(steps)))(*(s for x in steps for s in x))
        assert grid[0] % threadgroup[0] == 0
        failed = run(pointers, strides, grid[0] // threadgroup[0], threadgroup[0])
        assert not failed, "some lanes did not reach a shuffle or barrier"
        return [mx.view(mx.array(x), dtype) for x, dtype in zip(made, output_dtypes, strict=True)]

    def _program(self, inputs: Sequence[mx.Dtype], outputs: Sequence[mx.Dtype]) -> str:
        """Return the source inside a function as mlx declares it, and a way in."""
        kinds = {**INTEGERS, **WORDS[self.dialect.name]}
        names = zip(self.source.inputs, inputs, strict=True)
        declared, passed = [], []
        for n, (name, dtype) in enumerate(names):
            declared.append(f"const {kinds[dtype]}* {name}")
            passed.append(f"(const {kinds[dtype]}*)buffers[{n}]")
            if f"{name}_strides" in self.source.body:
                declared.append(f"const Strides {name}_strides")
                passed.append(f"as_strides(strides + {10 * n})")
        for n, (name, dtype) in enumerate(
            zip(self.source.outputs, outputs, strict=True), len(inputs)
        ):
            declared.append(f"{kinds[dtype]}* {name}")
            passed.append(f"({kinds[dtype]}*)buffers[{n}]")
        as_strides = (
            "static Strides as_strides(const int64_t* s) { Strides all; "
            "for (int i = 0; i < 10; i++) all[i] = s[i]; return all; }"
            if self.dialect.name == "cuda"
            else "static Strides as_strides(const int64_t* s) { return s; }"
        )
        return f"""#include "{self.dialect.name}.hpp"
{self.source.header}
static void kernel({", ".join(declared)}) {{
{self.source.body}
}}
{as_strides}
static void** buffers;
static const int64_t* strides;
extern "C" int launch(void** b, const int64_t* s, int blocks, int threads) {{
  buffers = b;
  strides = s;
  return emu::run(blocks, threads, [] {{ kernel({", ".join(passed)}); }});
}}
"""


def emulation(*, ties_to_even: bool = False) -> "functools.partial[Emulated]":
    """Return what makes emulated kernels, for ``RaggedKernel.build``."""
    return functools.partial(Emulated, ties_to_even=ties_to_even)


@functools.cache
def library(text: str, ties_to_even: bool) -> ctypes.CDLL:
    """Compile ``text``, once a process."""
    folder = Path(tempfile.mkdtemp(prefix="mlxserve-emulation-"))
    (folder / "kernel.cpp").write_text(text)
    define = ["-DTIES_TO_EVEN"] if ties_to_even else []
    command = [str(GXX), *FLAGS, *define, str(folder / "kernel.cpp"), "-o", str(folder / "k.so")]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(folder / "k.so"))
    shutil.rmtree(folder)
    return loaded


def bits(x: mx.array) -> np.ndarray[Any, Any]:
    """Return ``x``'s raw bits where they lie, strides and all."""
    return np.asarray(mx.view(x, {2: mx.uint16, 4: mx.uint32}[x.dtype.size]))
