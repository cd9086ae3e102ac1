"""Tiny float32 models of many architectures with random weights, made in milliseconds."""

import importlib
from functools import cache
from typing import Any

import mlx.core as mx

VOCAB = 256
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 64},
    "qwen2": {"hidden_size": 128, "num_attention_heads": 2},
    "qwen3": {"head_dim": 64},
    "gemma3_text": {
        "num_hidden_layers": 3,
        "head_dim": 64,
        "sliding_window": 32,
        "sliding_window_pattern": 3,
    },
    "qwen3_moe": {
        **MOE,
        "head_dim": 64,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "gpt_oss": {
        "head_dim": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": None,
    },
    "qwen3_next": {
        **MOE,
        "num_hidden_layers": 4,
        "head_dim": 64,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "partial_rotary_factor": 0.5,
        "full_attention_interval": 2,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "conv_kernel": 4,
        "n_groups": 2,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_limit": (0.0, float("inf")),
        "time_step_rank": 4,
        "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": False,
        "rms_norm": True,
        "chunk_size": 64,
        "ssm_state_size": 16,
    },
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0,
        "kv_lora_rank": 64,
        "q_lora_rank": None,
        "qk_rope_head_dim": 64,
        "v_head_dim": 16,
        "qk_nope_head_dim": 16,
        "n_group": 1,
        "topk_group": 1,
        "moe_layer_freq": 1,
        "first_k_dense_replace": 1,
    },
    "afm7": {
        "hidden_dim": 64,
        "num_layers": 3,
        "num_kv_reuse_layers": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "llama4_text": {
        "head_dim": 64,
        "num_hidden_layers": 4,
        "attention_chunk_size": 64,
        "intermediate_size_mlp": 128,
        "no_rope_layers": [1, 1, 1, 0],
        "use_qk_norm": True,
        "rope_scaling": None,
    },
}


@cache
def shared_model(name: str, seed: int = 0) -> Any:
    """Return a model that tests share and leave as it is: it is proved once, not in each file."""
    return tiny_model(name, seed)


def tiny_model(name: str, seed: int = 0) -> Any:
    """Return an evaluated model of architecture ``name`` with spread-out random weights."""
    mx.random.seed(seed)
    module = importlib.import_module(f"mlx_lm.models.{name}")
    model = module.Model(
        module.ModelArgs.from_dict({"model_type": name} | BASE | ARCHITECTURES[name])
    )
    model.eval()
    mx.eval(model.parameters())
    return model
