"""What kernels there are, how they are made, and that neither compiler nor trace is in the way."""

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest
from attrs import evolve

from mlxserve.attention.dialect import DIALECTS, Dialect, KernelSource, Launch, native_dialect
from mlxserve.attention.ragged import supports
from mlxserve.attention.shape import HEAD_SIZES, MAX_GROUP, MAX_WIDTH, Shape
from mlxserve.attention.source import attend_source, merge_source, pack_source
from mlxserve_hookspecs import WordFormat

from .cases import BLOCK, LONG, Case, attended, kernel, world
from .emulation.build import WORDS

NVCC = shutil.which("nvcc")
SHAPE = Shape(
    format=WordFormat(),
    heads=4,
    kv_heads=2,
    key_width=64,
    value_width=64,
    dtype=mx.bfloat16,
    block_size=BLOCK,
)
FORMATS = [WordFormat(), WordFormat(bits=8, group_size=32), WordFormat(bits=4, group_size=32)]


def lazily(dialect: Dialect, source: KernelSource) -> Launch:
    """Build graphs as mlx does, of zeros."""

    def launch(
        *, output_shapes: Sequence[tuple[int, ...]], output_dtypes: Sequence[mx.Dtype], **_: object
    ) -> list[mx.array]:
        return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

    return launch


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_supported_shape_fits_into_threadgroup_memory(dialect: str) -> None:
    made = itertools.product(HEAD_SIZES, range(1, MAX_GROUP + 1), range(1, MAX_WIDTH + 1), FORMATS)
    for size, group, width, word_format in made:
        shape = evolve(
            SHAPE,
            format=word_format,
            heads=2 * group,
            key_width=size,
            value_width=size,
            width=width,
        )
        assert shape.shared_bytes <= DIALECTS[dialect].shared_limit  # type: ignore[index]


def test_more_threadgroup_memory_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="threadgroup memory"):
        attend_source("metal", evolve(SHAPE, heads=8, kv_heads=1, key_width=1024, value_width=1024))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, None),
        ({"key_width": 192, "value_width": 128}, None),
        ({"word_format": WordFormat(bits=4)}, None),
        ({"dtype": mx.float64}, "float64"),
        ({"key_width": 72}, "heads of 72"),
        ({"value_width": 512}, "and 512"),
        ({"heads": 5}, "5 query heads over 2"),
        ({"heads": 34}, "34 query heads over 2"),
        ({"key_width": 80, "value_width": 80, "word_format": WordFormat(bits=8)}, "divide"),
    ],
    ids=str,
)
def test_what_there_is_no_kernel_for_is_said(changed: dict[str, object], why: str | None) -> None:
    layer = {"word_format": WordFormat(), "heads": 4, "kv_heads": 2, "key_width": 64}
    layer |= {"value_width": 64, "dtype": mx.float32, **changed}
    said = supports(layer.pop("word_format"), **layer)  # type: ignore[arg-type]
    assert said is None if why is None else why in str(said)


def test_a_cpu_has_no_dialect() -> None:
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    assert native_dialect() is None
    mx.set_default_device(before)


def test_too_many_new_tokens_are_refused() -> None:
    case = Case(width=9)
    with pytest.raises(ValueError, match="9 new tokens"):
        attended(case, kernel(case, "metal", lazily), world(case))


@pytest.mark.parametrize("name", ["queries", "poisoned", "table", "starts"])
def test_arrays_of_another_dtype_are_refused(name: str) -> None:
    case = Case()
    there = world(case)
    other = evolve(there, **{name: getattr(there, name).astype(mx.int16)})
    with pytest.raises(ValueError, match="no kernel"):
        attended(case, kernel(case, "metal", lazily), other)


def test_parts_follow_from_shapes_and_fill_the_device() -> None:
    by = kernel(Case(heads=32, kv_heads=8, key_width=128, value_width=128), "cuda", lazily)
    assert by.parts(rows=1, width=1, blocks=4) == 1
    assert by.parts(rows=1, width=1, blocks=256) > 16
    assert by.parts(rows=64, width=1, blocks=64) == 1
    assert by.parts(rows=64, width=1, blocks=2048) >= 8  # one long row must not hold up the others
    assert by.parts(rows=1, width=1, blocks=100_000) <= 64


@pytest.mark.parametrize("case", [Case(), Case(sinks=True, window=9, starts=LONG)], ids=str)
def test_a_compiled_step_holds_the_kernel_and_takes_other_lengths(case: Case) -> None:
    by, there, traces = kernel(case, "metal", lazily), world(case), []

    def step(starts: mx.array) -> mx.array:
        traces.append(starts)
        return attended(case, by, evolve(there, starts=starts))

    compiled = mx.compile(step)
    mx.eval(compiled(there.starts))
    out = compiled(there.starts + 1)
    assert out.shape == (len(case.starts), case.heads, case.width, case.value_width)
    assert len(traces) == 1


def test_a_kernel_is_built_once() -> None:
    built: list[str] = []

    def build(dialect: Dialect, source: KernelSource) -> Launch:
        built.append(source.name)
        return lazily(dialect, source)

    case = Case(starts=LONG)
    by, there = kernel(case, "metal", build), world(case)
    for _ in range(3):
        attended(case, by, there)
    assert len(built) == len(set(built)) == 2


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("purpose", ["attend", "attend quantized", "merge", "pack"])
def test_nvcc_takes_the_cuda_source(purpose: str, tmp_path: Path) -> None:
    eight = evolve(SHAPE, format=WordFormat(bits=8), width=2, window=True, dtype=mx.float16)
    source, inputs, outputs = {
        "attend": (attend_source("cuda", evolve(SHAPE, sinks=True)), "TTiiifT", "T"),
        "attend quantized": (attend_source("cuda", evolve(eight, partial=True)), "Tuiiif", "ff"),
        "merge": (merge_source("cuda", evolve(SHAPE, sinks=True)), "ffiT", "T"),
        "pack": (pack_source("cuda", eight), "TTi", "u"),
    }[purpose]
    kinds = {"f": "float", "i": "int32_t", "u": "uint32_t"}
    kinds["T"] = WORDS["cuda"][
        mx.float16 if "quantized" in purpose or purpose == "pack" else SHAPE.dtype
    ]
    declared = []
    for name, kind in zip(source.inputs, inputs, strict=True):
        declared.append(f"const {kinds[kind]}* {name}")
        if source.strided and f"{name}_strides" in source.body:
            declared.append(f"const __grid_constant__ Strides {name}_strides")
    declared += [
        f"{kinds[kind]}* {name}" for name, kind in zip(source.outputs, outputs, strict=True)
    ]
    text = (
        "#include <cstdint>\n#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n"
        "struct Strides {\n  int64_t at[10];\n"
        "  __device__ int64_t operator[](int i) const { return at[i]; }\n};\n"
        f"{source.header}\n__global__ void kernel({', '.join(declared)}) {{\n{source.body}\n}}\n"
    )
    (tmp_path / "kernel.cu").write_text(text)
    command = [str(NVCC), "-std=c++17", "-arch=sm_80", "-ptx", "kernel.cu", "-o", "kernel.ptx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
