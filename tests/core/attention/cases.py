"""Layers, rows and planes to attend over, with all that must not be read made unreadable."""

import mlx.core as mx
import numpy as np
from attrs import field, frozen

from mlxserve.attention.ragged import RaggedKernel
from mlxserve_hookspecs import WordFormat

from .reference import join_words, reference_attention

BLOCK = 16
SHORT = (0, 5, 31, 17)  # tokens that the rows held before; with the new ones under 64: one part
LONG = (0, 40, 150, 97, 64)


@frozen(kw_only=True)
class Case:
    """One attention layer and one pass over it."""

    heads: int = 4
    kv_heads: int = 2
    key_width: int = 64
    value_width: int = 64
    dtype: mx.Dtype = mx.float32
    bits: int = 0
    group_size: int = 64
    width: int = 1
    window: int | None = None
    keep: int = 0
    sinks: bool = False
    starts: tuple[int, ...] = SHORT
    seed: int = field(default=0)

    @property
    def format(self) -> WordFormat:
        return WordFormat(bits=self.bits, group_size=self.group_size)

    @property
    def blocks(self) -> int:
        return -(-(max(self.starts) + self.width) // BLOCK)

    @property
    def scale(self) -> float:
        return float(self.key_width**-0.5)


@frozen
class World:
    """The arrays of a case."""

    queries: mx.array
    plane: mx.array
    poisoned: mx.array
    table: mx.array
    starts: mx.array
    sinks: mx.array | None


def world(case: Case) -> World:
    """Make a pool whose blocks lie in disorder; ``poisoned`` holds NaN wherever no query looks."""
    rng = np.random.default_rng(case.seed)
    rows, slots = len(case.starts), (len(case.starts) * case.blocks + 3) * BLOCK

    def normal(*shape: int) -> mx.array:
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(case.dtype)

    keys = normal(slots, case.kv_heads, case.key_width)
    values = normal(slots, case.kv_heads, case.value_width)
    plane = join_words(keys, values, case.format)
    order = rng.permutation(np.arange(1, slots // BLOCK))[: rows * case.blocks]
    table = order.reshape(rows, case.blocks).astype(np.int32)
    seen = np.zeros(slots, bool)
    for row, start in enumerate(case.starts):
        for token in range(start + case.width):
            if case.window is None or token < case.keep or token > start - case.window:
                seen[table[row, token // BLOCK] * BLOCK + token % BLOCK] = True
    nothing = (
        mx.view(mx.full(plane.shape, -1, mx.int32), mx.uint32)
        if case.bits
        else mx.array(float("nan"), plane.dtype)
    )
    return World(
        queries=normal(rows, case.heads, case.width, case.key_width),
        plane=plane,
        poisoned=mx.where(mx.array(seen)[:, None, None], plane, nothing),
        table=mx.array(table),
        starts=mx.array(case.starts, mx.int32),
        sinks=normal(case.heads) if case.sinks else None,
    )


def kernel(case: Case, dialect: str, build: object) -> RaggedKernel:
    """Make the kernel of ``case``'s layer."""
    return RaggedKernel(
        format=case.format,
        heads=case.heads,
        kv_heads=case.kv_heads,
        key_width=case.key_width,
        value_width=case.value_width,
        dtype=case.dtype,
        block_size=BLOCK,
        dialect=dialect,  # type: ignore[arg-type]
        **({} if build is None else {"build": build}),  # type: ignore[arg-type]
    )


def attended(case: Case, by: RaggedKernel, there: World) -> mx.array:
    """Attend over the poisoned plane."""
    return by.attend(
        there.queries,
        there.poisoned,
        there.table,
        there.starts,
        scale=case.scale,
        window=case.window,
        keep=case.keep,
        sinks=there.sinks,
    )


def expected(case: Case, there: World) -> mx.array:
    """Attend over the clean plane, by the reference."""
    return reference_attention(
        there.queries,
        there.plane,
        there.table,
        there.starts,
        word_format=case.format,
        value_width=case.value_width,
        block_size=BLOCK,
        scale=case.scale,
        window=case.window,
        keep=case.keep,
        sinks=there.sinks,
    )


def difference(case: Case, by: RaggedKernel) -> float:
    """Return the largest difference from the reference; NaN where anything unreadable was read."""
    there = world(case)
    got = attended(case, by, there).astype(mx.float32)
    return float(np.abs(np.array(got - expected(case, there))).max())
