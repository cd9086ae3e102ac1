"""The ragged kernel: both dialects' own source, compiled by g++ and run lane by lane."""

import mlx.core as mx
import pytest

from .cases import LONG, Case, difference, kernel
from .emulation.build import GXX, emulation

pytestmark = pytest.mark.skipif(GXX is None, reason="needs g++")
TOLERANCE = {mx.float32: 2e-6, mx.bfloat16: 8e-3, mx.float16: 1e-3}
EMULATED = emulation()


@pytest.mark.parametrize("size", [64, 80, 96, 128, 192, 256])
def test_size(size):
    case = Case(key_width=size, value_width=size)
    assert difference(case, kernel(case, "metal", EMULATED)) < 2e-6
