"""What a number of ranks cannot share evenly is refused in one line, before weights are read."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from mlxserve.model.load import check_shardable, shard
from mlxserve.options import ModelOptions
from mlxserve_hookspecs import ModelError

CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 1,
    "intermediate_size": 192,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128,
}
MOE = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
}
NONE = ModelOptions()


@frozen
class Together:
    """The size and the place that splitting weights asks a group for."""

    ranks: int
    at: int = 0

    def size(self) -> int:
        return self.ranks

    def rank(self) -> int:
        return self.at


def model(architecture: str, **changes: Any) -> Any:
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    config = CONFIG | (MOE if "moe" in architecture else {}) | changes
    return module.Model(module.ModelArgs.from_dict({"model_type": architecture} | config))


def quantize(made: Any) -> None:
    importlib.import_module("mlx.nn").quantize(made, group_size=32, bits=4)


def written(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "num_attention_heads = 6, which 4"),
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, "num_key_value_heads = 2, which 4"),
        ({"num_attention_heads": 8, "num_attention_groups": 2}, "num_attention_groups = 2"),
        ({"text_config": {"num_attention_heads": 6}}, "num_attention_heads = 6"),
        ({"num_attention_heads": 8, "linear_num_key_heads": 2}, "linear_num_key_heads = 2"),
    ],
    ids=["heads", "kv heads", "kv heads by another name", "nested", "heads of linear attention"],
)
def test_heads_are_looked_at_in_the_configuration(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        check_shardable(written(tmp_path, **config), ModelOptions(), 4)


def test_heads_that_fit_and_heads_unknown_are_let_through(tmp_path: Path) -> None:
    check_shardable(written(tmp_path, num_attention_heads=8, num_key_value_heads=4), NONE, 4)
    check_shardable(written(tmp_path), NONE, 4)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LoRA adapters are not supported in distributed mode"):
        check_shardable(written(tmp_path), ModelOptions(adapter_path=Path("somewhere")), 2)


@pytest.mark.parametrize(
    ("architecture", "changes", "ranks"),
    [
        ("llama", {"intermediate_size": 190}, 3),
        ("qwen3_moe", {"moe_intermediate_size": 100}, 3),
        ("qwen3_moe", {"intermediate_size": 190, "mlp_only_layers": [0]}, 3),
    ],
    ids=["dense", "experts", "dense among experts"],
)
def test_layers_that_do_not_divide_are_refused(
    architecture: str, changes: dict[str, Any], ranks: int
) -> None:
    with pytest.raises(ModelError, match=f"^{ranks} ranks cannot share the layers") as caught:
        shard(model(architecture, **changes), Together(ranks))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_layers_that_divide_are_split(ranks: int) -> None:
    for architecture in ("llama", "qwen3", "qwen3_moe"):
        made = model(architecture)
        shard(made, Together(ranks, ranks - 1))
        assert made.layers[0].self_attn.q_proj.weight.shape == (192 // ranks, 96)


def test_quantized_layers_are_split_by_whole_groups() -> None:
    """192 inputs are six groups of 32: three ranks share them, and four do not."""
    made = model("llama", hidden_size=128, num_attention_heads=4, num_key_value_heads=4)
    quantize(made)
    with pytest.raises(ModelError, match="whole groups"):
        shard(made, Together(4))
    made = model("llama", head_dim=32)
    quantize(made)
    shard(made, Together(3, 1))
    assert made.layers[0].mlp.down_proj.scales.shape == (96, 2)


def test_an_architecture_that_cannot_be_split_is_named() -> None:
    with pytest.raises(ModelError, match=r"this architecture \(gemma\) cannot be split over ranks"):
        shard(model("gemma"), Together(2))
