"""The ragged kernel: both dialects' own source, compiled by g++ and run lane by lane.

Where no query looks the planes hold NaN: a token read too many shows in every number.
"""

import mlx.core as mx
import numpy as np
import pytest
from attrs import evolve

from mlxserve.attention.dialect import DIALECTS, Dialect, KernelSource, Launch
from mlxserve.attention.shape import Shape
from mlxserve.attention.source import attend_source

from .cases import LONG, Case, attended, difference, expected, kernel, world
from .emulation.build import GXX, emulation

pytestmark = pytest.mark.skipif(GXX is None, reason="needs g++")
TOLERANCE = {mx.float32: 3e-6, mx.bfloat16: 8e-3, mx.float16: 1e-3}
EMULATED = emulation()
EDGES = (0, 6, 7, 60, 59, 130)  # around a window of 7 and a block's end, and far beyond
CASES = {
    "heads of 64": Case(),
    "heads of 80, bfloat16": Case(key_width=80, value_width=80, dtype=mx.bfloat16),
    "heads of 96, 8 bit": Case(key_width=96, value_width=96, bits=8, group_size=32),
    "heads of 128, float16": Case(key_width=128, value_width=128, dtype=mx.float16),
    "heads of 192": Case(heads=1, kv_heads=1, key_width=192, value_width=192),
    "heads of 256, 4 bit": Case(heads=2, kv_heads=1, key_width=256, value_width=256, bits=4),
    "keys of 192 over values of 128": Case(key_width=192, value_width=128, starts=LONG),
    "odd words: 192 over 128, 8 bit, bfloat16": Case(
        key_width=192, value_width=128, bits=8, dtype=mx.bfloat16
    ),
    "no groups": Case(heads=3, kv_heads=3),
    "groups of 7": Case(heads=14, kv_heads=2),
    "groups of 16": Case(heads=16, kv_heads=1),
    "groups of 3, 2 new tokens": Case(heads=9, kv_heads=3, width=2),
    "groups of 12, 3 new tokens, in parts": Case(heads=12, kv_heads=1, width=3, starts=LONG),
    "8 new tokens, 8 bit": Case(width=8, bits=8),
    "in parts": Case(starts=LONG),
    "in parts, 8 bit, bfloat16": Case(bits=8, dtype=mx.bfloat16, starts=LONG),
    "in parts, sinks": Case(sinks=True, starts=LONG),
    "sinks, float16, 2 new tokens": Case(sinks=True, dtype=mx.float16, width=2),
    "window": Case(window=7, starts=EDGES),
    "window of 1": Case(window=1, starts=EDGES),
    "window, 5 new tokens": Case(window=7, width=5, starts=EDGES),
    "window, some kept, 5 new tokens": Case(window=7, keep=3, width=5, starts=EDGES),
    "window, some kept, sinks": Case(window=40, keep=4, sinks=True, starts=EDGES),
    "window, 4 bit, groups of 32": Case(window=40, bits=4, group_size=32, starts=LONG),
    "8 bit, groups of 128, float16": Case(
        key_width=128, value_width=128, bits=8, group_size=128, dtype=mx.float16
    ),
    "4 bit, bfloat16, 4 new tokens, sinks, window": Case(
        bits=4, dtype=mx.bfloat16, width=4, sinks=True, window=20, starts=LONG
    ),
}
IN_CUDA = (
    "heads of 80, bfloat16",
    "heads of 256, 4 bit",
    "groups of 12, 3 new tokens, in parts",
    "sinks, float16, 2 new tokens",
    "4 bit, bfloat16, 4 new tokens, sinks, window",
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_metal_source_agrees_with_the_reference(case: Case) -> None:
    assert difference(case, kernel(case, "metal", EMULATED)) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("name", IN_CUDA)
def test_cuda_source_agrees_with_the_reference(name: str) -> None:
    case = CASES[name]
    assert difference(case, kernel(case, "cuda", EMULATED)) < TOLERANCE[case.dtype]


def test_one_source_serves_all_lengths_tables_windows_and_scales() -> None:
    built: list[str] = []

    def build(dialect: Dialect, source: KernelSource) -> Launch:
        built.append(source.name)
        return EMULATED(dialect, source)

    case = Case(window=7, starts=EDGES)
    by = kernel(case, "metal", build)
    others = [
        evolve(case, starts=(200, 9), window=30, keep=5, seed=1),
        evolve(case, starts=(99, 400, 1), seed=2),
    ]
    for other in (case, *others):
        assert difference(other, by) < TOLERANCE[mx.float32]
    assert len(built) == 2  # a part's kernel and the merge


def test_other_static_shapes_have_other_names() -> None:
    shapes = [
        Shape(
            format=case.format,
            heads=case.heads,
            kv_heads=case.kv_heads,
            key_width=case.key_width,
            value_width=case.value_width,
            dtype=case.dtype,
            block_size=block,
            width=case.width,
            window=case.window is not None,
            sinks=case.sinks,
        )
        for case in CASES.values()
        for block in (16, 32)
    ]
    for dialect in DIALECTS:
        names = {attend_source(dialect, shape).name for shape in shapes}
        assert len(names) == len(set(shapes))


def test_idle_rows_disturb_nobody_and_are_finite() -> None:
    case = Case(starts=(0, 33, 0), width=2)
    there = world(case)
    scratch = np.array(there.table)
    scratch[[0, 2]] = 0
    idle = evolve(there, table=mx.array(scratch), poisoned=there.plane)
    got = attended(case, kernel(case, "metal", EMULATED), idle)
    assert mx.isfinite(got).all()
    assert mx.abs(got - expected(case, there))[1].max() < TOLERANCE[mx.float32]


def test_large_scores_do_not_overflow() -> None:
    case = Case(starts=LONG)
    there = world(case)
    loud = evolve(there, queries=there.queries * 1e4)
    got = attended(case, kernel(case, "metal", EMULATED), loud)
    assert mx.allclose(got, expected(case, loud), atol=1e-3)
