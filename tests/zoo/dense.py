"""Dense models with full attention."""

from typing import Any

from .building import BASE, EXPERTS, LATENT, WIDE, Configuration, excuse

DYNAMIC = excuse(
    "past max_position_embeddings keys depend on how the prompt was cut when they were made",
    "in chunks",
    "warm",
    "drafted",
    "preempted",
)
HEADS = BASE["num_attention_heads"]
GPT = {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": 8192}
ALIKE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("apertus", {"hidden_act": "xielu", "post_norm": False, "qk_norm": True}),
    ("ernie4_5", {"use_bias": False}),
    ("gemma", {}),
    ("glm", {}),
    ("glm4", {"partial_rotary_factor": 0.5}),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0}}),
    ("llama", {}),
    ("nanbeige", {}),
    ("nanochat", WIDE | {"num_key_value_heads": 4}),
    ("nemotron", {"hidden_act": "relu2"}),
    ("olmo2", {}),
    ("qwen3", {}),
    ("seed_oss", {"attention_out_bias": False}),
    ("smollm3", {"no_rope_layers": [1, 0]}),
    ("talkie", {}),
    ("telechat3", {}),
)
BY_WIDTH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cohere", {}),
    ("exaone", {"num_layers": 2, "layer_norm_epsilon": 1e-5}),
    ("gpt_neox", {"rotary_emb_base": 10000, "rotary_pct": 0.25, "num_key_value_heads": 4}),
    ("helium", {}),
    (
        "granite",
        {
            "logits_scaling": 1.0,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
        },
    ),
    ("internlm2", {}),
    ("internlm3", {}),
    ("mimo", {}),
    ("minicpm", {"dim_model_base": 256, "scale_depth": 1.4, "scale_emb": 2.0}),
    ("phi", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    ("phi3", {}),
    ("plamo", {"n_shared_head": 2}),
    ("qwen", {"kv_channels": 64, "layer_norm_epsilon": 1e-6}),
    ("qwen2", {}),
    ("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.25}),
    ("starcoder2", {"norm_epsilon": 1e-5}),
)
DENSE = {name: Configuration(name, changes) for name, changes in ALIKE}
DENSE |= {name: Configuration(name, WIDE | changes) for name, changes in BY_WIDTH}
DENSE |= {
    "cohere-qk-norm": Configuration("cohere", WIDE | {"use_qk_norm": True}),
    "gemma2": Configuration("gemma2", {"query_pre_attn_scalar": 64.0}),
    "gemma2-no-groups": Configuration("gemma2", {"num_key_value_heads": HEADS}),
    "gpt2": Configuration("gpt2", GPT | {"n_ctx": 8192, "layer_norm_epsilon": 1e-5}),
    "gpt_bigcode": Configuration("gpt_bigcode", GPT | {"layer_norm_epsilon": 1e-5}),
    "gpt_bigcode-all-heads": Configuration(
        "gpt_bigcode", GPT | {"layer_norm_epsilon": 1e-5, "multi_query": False}
    ),
    "gptj": Configuration("gptj", GPT | {"rotary_dim": 32}),
    "internlm2-dynamic": Configuration(
        "internlm2",
        WIDE | {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
        budget=64,
        excused=DYNAMIC,
    ),
    "internlm3-dynamic": Configuration(
        "internlm3",
        WIDE
        | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
        budget=64,
        excused=DYNAMIC,
    ),
    "lille-130m": Configuration(
        "lille-130m",
        {"block_size": 8192, "n_embd": 256, "n_head": 4, "n_kv_heads": 2, "n_layer": 2},
    ),
    "llama-dynamic-rope": Configuration(
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
        budget=64,
        excused=DYNAMIC,
    ),
    "llama-long-rope": Configuration(
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama4_text": Configuration(
        "llama4_text", {"intermediate_size_mlp": 128, "no_rope_layers": [1, 0]}
    ),
    "ministral3": Configuration(
        "ministral3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "llama_4_scaling_beta": 0.3,
                "original_max_position_embeddings": 64,
            }
        },
        budget=64,
    ),
    "nanbeige-loops": Configuration("nanbeige", {"num_loops": 2}),
    "openelm": Configuration(
        "openelm",
        {
            "num_transformer_layers": 2,
            "model_dim": 64,
            "ffn_dim_divisor": 32,
            "num_query_heads": [4, 4],
            "num_kv_heads": [2, 4],
            "ffn_multipliers": [1.0, 2.0],
        },
    ),
    "phi3-long-rope": Configuration(
        "phi3",
        WIDE
        | {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * 32,
                "long_factor": [1.5] * 32,
            },
            "original_max_position_embeddings": 64,
        },
    ),
    "phixtral": Configuration(
        "phixtral",
        EXPERTS
        | {"num_vocab": 256, "model_dim": 256, "num_heads": 4, "num_layers": 2, "rotary_dim": 32},
    ),
    "stablelm-qk-norm": Configuration(
        "stablelm",
        WIDE | {"use_qkv_bias": True, "partial_rotary_factor": 0.25, "qk_layernorm": True},
    ),
}
DENSE |= {
    "minicpm3": Configuration(
        "minicpm3",
        LATENT
        | {
            "dim_model_base": 64,
            "scale_depth": 1.4,
            "scale_emb": 2.0,
            "rope_scaling": {"original_max_position_embeddings": 64},
        },
    ),
    "youtu_llm": Configuration("youtu_llm", LATENT),
    "youtu_llm-no-q-lora": Configuration("youtu_llm", LATENT | {"q_lora_rank": None}),
}
