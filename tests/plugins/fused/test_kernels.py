import mlx.core as mx
import pytest
from tests.core.attention.emulation.build import GXX
from tests.plugins.fused.emulated import build

from mlxserve_plugins.fused.kernels import Few, Turn

pytestmark = pytest.mark.skipif(GXX is None, reason="needs g++")
FEW = Few(build)
INPUTS = 192  # three chunks: not every warp has one


def random(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape))).astype(dtype)


def near(ours: mx.array, wanted: mx.array) -> None:
    assert ours.shape == wanted.shape
    a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
    assert mx.all(mx.abs(a - b) <= 0.02 * mx.abs(b).max())


@pytest.mark.parametrize(("rows", "dtype"), [(1, mx.bfloat16), (11, mx.bfloat16), (8, mx.float16)])
def test_a_product(rows: int, dtype: mx.Dtype) -> None:
    x, w = random(rows, 1, INPUTS, dtype=dtype), random(40, INPUTS, dtype=dtype)
    b, r = random(40, dtype=dtype), random(rows, 1, 40, dtype=dtype)
    near(FEW.product(x, w), x @ w.T)
    near(FEW.product(x, w, b, r), x @ w.T + b + r)


def test_a_wide_product_makes_twice_the_outputs_a_block() -> None:
    x, w = random(60, 64), random(2064, 64)
    near(FEW.product(x, w), x @ w.T)


@pytest.mark.parametrize("rows", [19])
def test_a_gated_pair(rows: int) -> None:
    x, gate, up = random(rows, INPUTS), random(40, INPUTS), random(40, INPUTS) + 1
    g = x @ gate.T
    near(FEW.gated(x, gate, up), g * mx.sigmoid(g) * (x @ up.T))


@pytest.mark.parametrize(("rows", "biased"), [(3, True), (33, False)])
def test_three_products_side_by_side(rows: int, *, biased: bool) -> None:
    x, outputs = random(rows, INPUTS), (48, 24, 16)
    weights, biases = [random(n, INPUTS) for n in outputs], [random(n) for n in outputs]
    wanted = [x @ w.T + (b if biased else 0) for w, b in zip(weights, biases, strict=True)]
    made = FEW.split(x, weights, biases if biased else ())
    near(made, mx.concatenate(wanted, axis=-1))


def test_a_row_comes_out_the_same_whoever_is_beside_it() -> None:
    x, w = random(24, INPUTS), random(16, INPUTS)
    together = FEW.product(x, w)
    for at in (0, 7, 23):
        assert mx.array_equal(FEW.product(x[at : at + 1], w), together[at : at + 1])


@pytest.mark.parametrize(
    ("dim", "turned", "traditional", "normed"),
    [(64, 64, False, False), (80, 32, False, True), (128, 128, True, True)],
)
def test_heads_are_normed_and_turned(
    dim: int, turned: int, *, traditional: bool, normed: bool
) -> None:
    rows, width, heads = 2, 3, (4, 2)
    projected = random(rows, width, (sum(heads) + heads[1]) * dim)
    steps = mx.arange(0, turned, 2) / turned
    turn = Turn(dim, turned, traditional, 0.5, 10000.0**-steps)
    weights = (1 + random(dim) * 0.1, 1 - random(dim) * 0.1)
    starts = mx.array([5, 1000], mx.int32)
    norm = (*weights, 1e-6) if normed else None
    made = FEW.heads(projected, heads, turn, starts, norm)
    first = 0
    for ours, count, weight in zip(made, heads, weights, strict=True):
        part = projected[..., first * dim : (first + count) * dim]
        x = part.reshape(rows, width, count, dim)
        x = mx.fast.rms_norm(x, weight, 1e-6) if normed else x
        wanted = mx.fast.rope(
            x.transpose(0, 2, 1, 3),
            turned,
            traditional=traditional,
            base=10000.0,
            scale=0.5,
            offset=starts,
        )
        near(ours, wanted)
        first += count
