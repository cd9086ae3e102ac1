"""Models of which some layers see a window of the last tokens."""

from .building import EXPERTS, FULL, SLIDING, WIDE, Configuration, excuse

WINDOW = 32
SEEN = {"sliding_window": WINDOW}
PAIR = {"layer_types": [SLIDING, FULL]}
ROPES = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in (SLIDING, FULL)}
GEMMA4 = SEEN | {
    "num_hidden_layers": 4,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 256,
    "rope_parameters": ROPES,
    "use_double_wide_mlp": False,
}
GEMMA3N = SEEN | {
    "num_hidden_layers": 4,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 256,
    "rope_local_base_freq": 10000.0,
    "final_logit_softcapping": 30.0,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "hidden_size_per_layer_input": 16,
    "altup_num_inputs": 2,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 8,
}
MUSE = SEEN | {
    "layer_types": [SLIDING, FULL],
    "layer_rope_theta": [10000.0, 0],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "post_norm_eps": 1e-5,
    "final_logit_softcapping": 20.0,
    "output_multiplier": 0.5,
    "qk_scale_factor": 2.0,
}
MIMO = EXPERTS | {
    "hybrid_layer_pattern": [1, 0],
    "moe_layer_freq": [0, 1],
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "sliding_window_size": WINDOW,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "layernorm_epsilon": 1e-5,
    "swa_rope_theta": 10000.0,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "v_head_dim": 64,
    "swa_head_dim": 64,
    "swa_v_head_dim": 64,
    "partial_rotary_factor": 0.5,
}
STEP = SEEN | {
    "layer_types": [SLIDING, FULL],
    "num_attention_groups": 2,
    "attention_other_setting": {
        "attention_type": SLIDING,
        "num_attention_heads": 4,
        "num_attention_groups": 2,
    },
    "moe_num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 32,
    "share_expert_dim": 32,
    "moe_layers_enum": "1",
}
SLIDERS = {
    "cohere2": ("cohere2", WIDE | SEEN | {"sliding_window_pattern": 2}),
    "exaone4": ("exaone4", SEEN | {"sliding_window_pattern": "LG", "rope_scaling": None}),
    "exaone_moe": (
        "exaone_moe",
        EXPERTS
        | SEEN
        | PAIR
        | {"is_moe_layer": [False, True], "rope_parameters": {"rope_theta": 10000.0}},
    ),
    "afmoe": ("afmoe", EXPERTS | SEEN | PAIR | {"num_dense_layers": 1, "num_experts": 4}),
    "gemma3_text": (
        "gemma3_text",
        SEEN | {"num_hidden_layers": 3, "sliding_window_pattern": 3},
    ),
    "gemma4_text": ("gemma4_text", GEMMA4),
    "gemma4_text-shared": (
        "gemma4_text",
        GEMMA4 | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16},
    ),
    "gemma4_text-experts": (
        "gemma4_text",
        GEMMA4
        | {
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_scaling": None} | SEEN | PAIR,
    ),
    "iquestloopcoder": ("iquestloopcoder", {"loop_num": 2, "loop_window_size": WINDOW}),
    "laguna": ("laguna", EXPERTS | SEEN | PAIR | {"rope_parameters": ROPES}),
    "llama-sliding": ("llama", SEEN | PAIR),
    "mellum": ("mellum", EXPERTS | SEEN | PAIR | {"rope_parameters": ROPES}),
    "mimo_v2_flash": ("mimo_v2_flash", MIMO),
    "mimo_v2_flash-sinks": ("mimo_v2_flash", MIMO | {"add_full_attention_sink_bias": True}),
    "ministral3-sliding": (
        "ministral3",
        SEEN
        | PAIR
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "llama_4_scaling_beta": 0.3,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "muse_glimmer": ("muse_glimmer", MUSE),
    "olmo3": ("olmo3", SEEN | PAIR),
    "spark2_5": ("spark2_5", SEEN | PAIR | {"rope_parameters": ROPES}),
    "step3p5": ("step3p5", STEP),
}
WINDOWED = {
    name: Configuration(module, changes, window=WINDOW)
    for name, (module, changes) in SLIDERS.items()
}
WINDOWED |= {
    "exaone4-full": Configuration(
        "exaone4", {"sliding_window": None, "sliding_window_pattern": None, "rope_scaling": None}
    ),
    "gemma3n": Configuration("gemma3n", inside=GEMMA3N, window=WINDOW),
    "plamo3": Configuration(
        "plamo3",
        {"window_size": WINDOW, "sliding_window_pattern": 2},
        window=WINDOW,
        excused=excuse(
            "a prompt's tokens see one token more than those of a reply",
            "in chunks",
            "warm",
            "preempted",
        ),
    ),
    "llama4": Configuration(
        "llama4",
        inside={
            "num_hidden_layers": 4,
            "attention_chunk_size": 64,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 128,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "rope_scaling": None,
            "floor_scale": 16,
        },
        window=64,
    ),
    "baichuan_m1": Configuration(
        "baichuan_m1",
        WIDE | SEEN | {"sliding_window_layers": [0], "conv_window": 2},
        window=WINDOW,
    ),
}
