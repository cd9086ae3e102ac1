"""Models with recurrent layers, alone or beside attention."""

from .building import EXPERTS, FULL, LATENT, SLIDING, WIDE, Configuration

MAMBA2 = {
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
    "ssm_state_size": 16,
}
MAMBA = {
    "intermediate_size": 128,
    "state_size": 16,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "partial_rotary_factor": 0.5,
    "full_attention_interval": 2,
}
GRANITE = WIDE | {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.125,
    "logits_scaling": 1.0,
    "residual_multiplier": 0.5,
    "layer_types": ["mamba", "attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_proj_bias": False,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
}
NEMOTRON_H = {
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 2,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "hybrid_override_pattern": ["M", "*", "-", "M"],
}
LFM2 = WIDE | {
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 256,
    "block_multiple_of": 64,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", FULL],
    "num_dense_layers": 1,
    "use_expert_bias": True,
}
KIMI_LINEAR = (
    LATENT
    | EXPERTS
    | {
        "linear_attn_config": {
            "kda_layers": [1],
            "full_attn_layers": [2],
            "num_heads": 4,
            "head_dim": 16,
            "short_conv_kernel_size": 4,
        },
        "model_max_length": 8192,
        "mla_use_nope": True,
        "num_experts_per_token": 2,
        "num_shared_experts": 1,
    }
)
BAILING = (
    EXPERTS
    | LATENT
    | {
        "num_hidden_layers": 4,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "partial_rotary_factor": 0.5,
        "moe_shared_expert_intermediate_size": 32,
    }
)
JAMBA = EXPERTS | {
    "num_hidden_layers": 4,
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
}
FALCON = {
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mlp_multipliers": [0.9, 0.6],
}
RWKV = {
    "a_low_rank_dim": 8,
    "v_low_rank_dim": 8,
    "gate_low_rank_dim": 8,
    "decay_low_rank_dim": 8,
    "head_dim": 16,
}
GRIFFIN = WIDE | {
    "conv1d_width": 4,
    "logits_soft_cap": 30.0,
    "attention_window_size": 32,
    "num_hidden_layers": 3,
    "block_types": ["recurrent", "recurrent", "attention"],
}
PLAMO2 = {
    "hidden_size_per_head": 64,
    "attention_window_size": 8192,
    "mamba_d_state": 16,
    "mamba_num_heads": 4,
    "mamba_step": 2,
    "num_hidden_layers": 4,
}
KINDS = {
    "bailing_hybrid": BAILING,
    "bailing_moe_linear": BAILING | {"hidden_size": 256},
    "bailing_moe_v3": BAILING,
    "falcon_h1": FALCON,
    "granitemoehybrid": GRANITE | EXPERTS,
    "jamba": WIDE | JAMBA,
    "kimi_linear": KIMI_LINEAR,
    "lfm2": LFM2,
    "lfm2_moe": LFM2 | EXPERTS,
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "nemotron_h": NEMOTRON_H,
    "olmo_hybrid": WIDE
    | DELTA
    | {
        "linear_allow_neg_eigval": True,
        "layer_types": ["linear_attention", FULL, "linear_attention", FULL],
    },
    "plamo2": PLAMO2,
    "qwen3_next": DELTA | EXPERTS,
    "rwkv7": RWKV,
}
RECURRENT = {name: Configuration(name, changes) for name, changes in KINDS.items()}
RECURRENT |= {
    "bailing_hybrid-no-q-lora": Configuration("bailing_hybrid", BAILING | {"q_lora_rank": None}),
    "granitemoehybrid-dense": Configuration("granitemoehybrid", GRANITE),
    "gear": Configuration(
        "gear",
        {
            "layer_types": ["conv_mixer", SLIDING, FULL],
            "num_hidden_layers": 3,
            "sliding_window": 32,
        },
        window=32,
    ),
    "nemotron_h-experts": Configuration(
        "nemotron_h",
        NEMOTRON_H
        | EXPERTS
        | {
            "hybrid_override_pattern": ["M", "*", "E", "M"],
            "moe_shared_expert_intermediate_size": 32,
        },
    ),
    "plamo2-window": Configuration("plamo2", PLAMO2 | {"attention_window_size": 32}),
    "qwen3_5": Configuration("qwen3_5", inside=DELTA),
    "recurrent_gemma": Configuration("recurrent_gemma", GRIFFIN, window=32),
}
