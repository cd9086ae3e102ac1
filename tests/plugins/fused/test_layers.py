"""Whole models on emulated kernels: the same logits as mlx-lm's own layers."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_map
from mlx_lm.models import llama, qwen2, qwen3
from mlx_lm.models.cache import make_prompt_cache
from tests.core.attention.emulation.build import GXX
from tests.plugins.fused.emulated import build

from mlxserve_plugins.fused.forms import form
from mlxserve_plugins.fused.kernels import Few
from mlxserve_plugins.fused.layers import Fused

pytestmark = pytest.mark.skipif(GXX is None, reason="needs g++")
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "intermediate_size": 192,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": 70,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}


def tiny(kind: Any, **more: Any) -> Any:
    name = kind.__name__.rpartition(".")[2]
    args = kind.ModelArgs.from_dict({"model_type": name, **SIZES, **more})
    model = kind.Model(args)
    mx.random.seed(1)
    model.update(
        tree_map(
            lambda p: (p + mx.random.normal(p.shape) * 0.05).astype(mx.bfloat16), model.parameters()
        )
    )
    return model


MODELS = {
    "qwen2, with biases": lambda: tiny(qwen2),
    "qwen3, with norms": lambda: tiny(qwen3, head_dim=64, max_position_embeddings=64),
}
COUNTS = {"products": 8, "gates": 1, "attention": 1, "residuals": 1}


def logits(model: Any) -> list[mx.array]:
    found = []
    for rows in (2,):
        cache = make_prompt_cache(model)
        found.append(model(mx.array([[1, 5, 3]] * rows), cache=cache))
        found.append(model(mx.array([[2]] * rows), cache=cache))
    mx.eval(found)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_stay(name: str) -> None:
    model = MODELS[name]()
    before, layers = logits(model), [type(m) for _, m in model.named_modules()]
    fused = Fused(Few(build), model)
    assert fused.apply() == COUNTS
    assert all(isinstance(m, t) for (_, m), t in zip(model.named_modules(), layers, strict=True))
    for ours, wanted in zip(logits(model), before, strict=True):
        a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
        assert mx.all(mx.abs(a - b) <= 0.03 * (b.max() - b.min()))
    fused.undo()
    assert [type(m) for _, m in model.named_modules()] == layers


def test_passes_of_many_rows_are_as_they_were() -> None:
    model, tokens = tiny(llama), mx.array([[1] * 65])
    before = model(tokens, cache=None)
    Fused(Few(build), model).apply()
    assert mx.array_equal(model(tokens, cache=None), before)


def test_quantized_layers_and_other_bodies_are_left_alone() -> None:
    model = tiny(llama)
    quantize(model, group_size=64, bits=4)
    assert Fused(Few(build), model).apply() == {}
    assert form(Linear) is None


def test_what_each_known_body_is_called() -> None:
    assert form(llama.Attention) == ("attention", ("n_heads", "n_kv_heads"))
    assert form(qwen3.Attention) == ("attention", ("n_heads", "n_kv_heads", "q_norm", "k_norm"))
    assert form(qwen2.MLP) == form(llama.MLP) == ("mlp", ())
    assert form(llama.TransformerBlock) == ("block", ())
