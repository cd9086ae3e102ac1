"""Folded quantized layers: other products' shapes, the same numbers."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.containers import Sequential
from mlx.nn.layers.distributed import QuantizedAllToShardedLinear, QuantizedShardedToAllLinear
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRALinear

from mlxserve_plugins.fused.folding import FoldedLinear, fold, folding_pays

SHAPES = [(64,), (3, 64), (1, 1, 64), (8, 1, 64), (1, 5, 64), (4, 3, 64), (2, 3, 2, 64)]
MODES = {
    "affine, 4 bit": {"group_size": 32, "bits": 4},
    "affine, 8 bit": {"group_size": 64, "bits": 8},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
}


class Two(Module):
    """A model of one linear layer and a tied embedding."""

    def __init__(self, *, bias: bool = False, **quantization: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.linear = Linear(64, 96, bias=bias).to_quantized(**quantization)
        self.embedding = Embedding(128, 64).to_quantized(**quantization)


@pytest.fixture(autouse=True)
def seeded() -> None:
    mx.random.seed(3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "with a bias"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_folded_layers_give_the_same_bits(
    shape: tuple[int, ...], bias: bool, mode: dict[str, Any]
) -> None:
    model, x = Two(bias=bias, **mode), mx.random.normal(shape).astype(mx.bfloat16)
    linear, logits = model.linear(x), model.embedding.as_linear(x)
    assert fold(model) == 2
    assert mx.array_equal(model.linear(x), linear)
    assert model.linear(x).shape == (*shape[:-1], 96)
    assert mx.array_equal(model.embedding.as_linear(x), logits)
    assert model.embedding.as_linear(x).shape == (*shape[:-1], 128)


def test_the_product_sees_one_row_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Two(bits=4)
    seen: list[tuple[int, ...]] = []
    whole = mx.quantized_matmul

    def watched(x: mx.array, *rest: Any, **options: Any) -> mx.array:
        seen.append(x.shape)
        return whole(x, *rest, **options)

    monkeypatch.setattr(mx, "quantized_matmul", watched)
    fold(model)
    model.linear(mx.zeros((8, 2, 64)))
    model.embedding.as_linear(mx.zeros((4, 3, 64)))
    assert seen == [(1, 16, 64), (1, 12, 64)]


def test_parameters_types_and_lookups_stay() -> None:
    model = Two(bits=4, bias=True)
    before, tokens = dict(tree_flatten(model.parameters())), mx.array([[1, 2]])  # type: ignore[no-untyped-call]
    looked_up = model.embedding(tokens)
    fold(model)
    assert dict(tree_flatten(model.parameters())).keys() == before.keys()  # type: ignore[no-untyped-call]
    assert isinstance(model.linear, QuantizedLinear)
    assert (model.linear.bits, model.linear.group_size, model.linear.mode) == (4, 64, "affine")
    assert mx.array_equal(model.embedding(tokens), looked_up)


def test_folding_again_changes_nothing() -> None:
    model = Two(bits=4)
    assert [fold(model), fold(model)] == [2, 0]


def test_a_layer_inside_an_adapter_folds() -> None:
    adapter = LoRALinear.from_base(Linear(64, 96).to_quantized(bits=4), r=4)
    adapter.lora_b = mx.random.normal(adapter.lora_b.shape)
    x = mx.random.normal((8, 2, 64))
    before = adapter(x)
    assert fold(adapter) == 1
    assert type(adapter.linear) is FoldedLinear
    assert mx.array_equal(adapter(x), before)


@pytest.mark.parametrize("kind", [QuantizedAllToShardedLinear, QuantizedShardedToAllLinear])
def test_a_rank_s_share_folds(kind: type) -> None:
    layer = Sequential(kind(64, 96, bits=4))  # type: ignore[no-untyped-call]
    x = mx.random.normal((8, 2, 64))
    before = layer(x)
    assert fold(layer) == 1
    assert mx.array_equal(layer(x), before)


def test_a_subclass_that_returns_something_else_is_left_alone() -> None:
    class Halves(QuantizedLinear):
        def __call__(self, x: mx.array) -> Any:
            return mx.split(super().__call__(x), 2, axis=-1)  # type: ignore[no-untyped-call]

    model = Sequential(Halves(64, 96, bits=4))  # type: ignore[no-untyped-call]
    assert fold(model) == 0


def test_a_cpu_is_not_measured() -> None:
    assert not folding_pays(Two(bits=4))
