"""Packing new tokens: bit for bit what mlx's quantization gives, both sides side by side."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxserve.attention.ragged import RaggedKernel

from .cases import Case, kernel
from .emulation.build import GXX, emulation
from .reference import join_words

needs_gxx = pytest.mark.skipif(GXX is None, reason="needs g++")
AS_ON_CPU = emulation(ties_to_even=True)  # mlx's CPU rounds ties to even, its GPUs away from zero
LAYERS = {
    "plain": Case(),
    "plain, bfloat16, 192 over 128": Case(dtype=mx.bfloat16, key_width=192, value_width=128),
    "8 bit": Case(bits=8),
    "4 bit": Case(bits=4),
    "8 bit, bfloat16": Case(bits=8, dtype=mx.bfloat16, kv_heads=1),
    "4 bit, float16, groups of 32": Case(bits=4, group_size=32, dtype=mx.float16),
    "4 bit, groups of 128": Case(bits=4, group_size=128, key_width=128, value_width=256),
    "8 bit, bfloat16, 192 over 128": Case(
        bits=8, dtype=mx.bfloat16, key_width=192, value_width=128
    ),
}


def made(case: Case, rows: int, width: int) -> tuple[mx.array, mx.array]:
    """Return keys and values, numbers on either side of zero in every group.

    Where all are negative mlx's CPU and its GPUs do not agree.
    """
    rng = np.random.default_rng(width)
    sides = []
    for size in (case.key_width, case.value_width):
        x = rng.normal(size=(rows, case.kv_heads, width, size)) * rng.choice([1e-3, 1, 50])
        sides.append(mx.array(x.astype(np.float32)).astype(case.dtype))
    return sides[0], sides[1]


def words(by: RaggedKernel, keys: mx.array, values: mx.array) -> np.ndarray[Any, Any]:
    return np.array(mx.view(by.pack(keys, values), mx.uint32))


@needs_gxx
@pytest.mark.parametrize("dialect", ["metal", "cuda"])
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_words_are_those_of_mlx_quantize(case: Case, dialect: str) -> None:
    by = kernel(case, dialect, AS_ON_CPU)
    for rows, width in ((1, 1), (3, 1), (2, 5), (1, 37)):
        keys, values = made(case, rows, width)
        right = mx.view(join_words(keys, values, case.format).swapaxes(1, 2), mx.uint32)
        assert np.array_equal(words(by, keys, values), np.array(right))


@needs_gxx
def test_keys_and_values_may_be_strided() -> None:
    case = LAYERS["8 bit, bfloat16"]
    by = kernel(case, "metal", AS_ON_CPU)
    keys, values = made(case, 2, 3)
    turned = mx.contiguous(values.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    mx.eval(turned)
    assert np.array_equal(words(by, keys, turned), words(by, keys, values))


def by_the_gpu_rule(x: np.ndarray[Any, Any], bits: int) -> tuple[np.ndarray[Any, Any], Any, Any]:
    """Quantize one group as mlx's GPU kernels do: the maximum is at least 0, ties go outwards."""

    def away(y: Any) -> Any:
        return np.trunc(y + np.copysign(np.float32(0.5), y))

    bins, low, high = np.float32(2**bits - 1), x.min(), max(x.max(), np.float32(0))
    scale = max((high - low) / bins, np.float32(1e-7))
    scale = scale if abs(low) > abs(high) else -scale
    edge = low if abs(low) > abs(high) else high
    steps = away(edge / scale)
    scale, bias = (scale, np.float32(0)) if steps == 0 else (edge / steps, edge)
    return np.clip(away((x - bias) / scale), 0, bins), scale, bias


@needs_gxx
@pytest.mark.parametrize(
    "group",
    [
        np.linspace(-3, -1, 32),
        np.linspace(1, 3, 32),
        np.zeros(32),
        np.linspace(-4, 4, 32),
        np.full(32, 0.25),
        np.linspace(-1e-9, 1e-9, 32),
    ],
    ids=["all negative", "all positive", "all zero", "a tie at the edge", "all equal", "tiny"],
)
def test_corners_follow_the_rule_of_mlx_on_gpus(group: np.ndarray[Any, Any]) -> None:
    case = Case(bits=4, group_size=32, kv_heads=1)
    x = np.tile(group.astype(np.float32), 2)[None, None, None]
    got = words(kernel(case, "metal", emulation()), mx.array(x), mx.array(x))[0, 0, 0]
    codes, scale, bias = by_the_gpu_rule(group.astype(np.float32), 4)
    assert got[16:].view(np.float32).tolist() == [scale, scale, bias, bias] * 2
    unpacked = got[:4, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    assert unpacked.reshape(-1).tolist() == codes.tolist()


@needs_gxx
def test_plain_words_are_keys_then_values() -> None:
    case = Case(dtype=mx.bfloat16)
    keys, values = made(case, 2, 3)
    packed = kernel(case, "metal", AS_ON_CPU).pack(keys, values)
    assert packed.shape == (2, 3, case.kv_heads, 128)
    assert mx.array_equal(packed[1, 2, 1, :64], keys[1, 1, 2])
    assert mx.array_equal(packed[1, 2, 1, 64:], values[1, 1, 2])
