"""What a configuration is, and how a tiny model is built from one."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from attrs import field, frozen
from mlx.utils import tree_map_with_path

VOCAB = 256
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_qk_norm": True,
}
"""What almost every module calls by these names; what it does not know is dropped."""

EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_layer_freq": 1,
    "routed_scaling_factor": 1.0,
}
"""Four experts, two of them for each token."""

LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}
"""Multi-head latent attention, wide enough for a quantized codec."""

WIDE: dict[str, Any] = {"hidden_size": 256}
"""For modules whose head is the hidden size over the heads: 64."""

GAIN, EMBEDDING = 2.0, 0.5
EMBEDDED = re.compile(r"embed|wte|wpe")
SLIDING, FULL = "sliding_attention", "full_attention"


def excuse(reason: str, *checks: str) -> dict[str, str]:
    """Return the checks that ``reason`` excuses a configuration from."""
    return dict.fromkeys(checks, reason)


@frozen
class Configuration:
    """A tiny model.

    Attributes:
        module: Of ``mlx_lm.models``.
        arguments: Its arguments, over ``BASE``.
        window: Tokens that a sliding layer sees; ``None`` where none slides.
        budget: Tokens up to which sparse attention sees all; ``None`` where none is sparse.
        inside: Arguments of a model inside (``text_config``); ``None`` where there is none.
        excused: Checks that cannot hold, by name, with the reason, which is mlx-lm's.
        vocab: Tokens that the model knows.
    """

    module: str
    arguments: Mapping[str, Any] = field(factory=dict)
    window: int | None = None
    budget: int | None = None
    inside: Mapping[str, Any] | None = None
    excused: Mapping[str, str] = field(factory=dict)
    vocab: int = VOCAB

    def build(self, seed: int = 0) -> Any:
        """Return an evaluated float32 model with spread-out random weights."""
        mx.random.seed(seed)
        module = importlib.import_module(f"mlx_lm.models.{self.module}")
        arguments = {"model_type": self.module} | BASE | dict(self.arguments)
        if self.inside is not None:
            arguments["text_config"] = {"model_type": self.module} | BASE | dict(self.inside)
        model = module.Model(module.ModelArgs.from_dict(arguments))
        model.update(tree_map_with_path(_spread, model.parameters()))
        model.eval()
        mx.eval(model.parameters())
        return model


def _spread(path: str, weight: mx.array) -> mx.array:
    """Make a weight count: what is constant at the start moves, what is small grows.

    As made, a tiny model repeats its last token whatever came before, and hides every mistake.
    """
    if not mx.issubdtype(weight.dtype, mx.floating):
        return mx.random.randint(0, 1 << 30, weight.shape).astype(weight.dtype)
    weight = weight.astype(mx.float32)
    if weight.size == 1:
        return weight
    if (weight.max() == weight.min()).item():
        return weight + 0.2 * mx.random.normal(weight.shape)
    if weight.ndim == 1:
        return weight
    return weight * (EMBEDDING if EMBEDDED.search(path) else GAIN)
