"""Mixtures of experts with full attention."""

from .building import EXPERTS, FULL, WIDE, Configuration, excuse

GROUPED = EXPERTS | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
BAILING = EXPERTS | {"use_bias": False, "use_qkv_bias": False, "use_qk_norm": True}
HUNYUAN = EXPERTS | {
    "moe_topk": 2,
    "num_shared_expert": 1,
    "use_mixed_mlp_moe": True,
    "rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0},
    "use_cla": False,
    "cla_share_factor": 2,
}
MINIMAX_M3 = EXPERTS | {
    "dense_intermediate_size": 64,
    "rotary_dim": 32,
    "moe_layer_freq": [0, 1],
    "index_n_heads": 2,
    "index_head_dim": 64,
    "index_block_size": 16,
    "index_topk_blocks": 4,
}
NAS_ATTENTION = {"n_heads_in_group": 2}
NAS_BLOCKS = [
    {"attention": NAS_ATTENTION, "ffn": {"ffn_mult": 1.0}},
    {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
    {"attention": NAS_ATTENTION, "ffn": {"no_op": True}},
]
NAS_LINEAR = {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}}
MIXTURES = {
    "Klear": EXPERTS,
    "bailing_moe": BAILING,
    "dots1": GROUPED,
    "ernie4_5_moe": EXPERTS
    | {"use_bias": False, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "glm4_moe": GROUPED | {"rope_scaling": None, "partial_rotary_factor": 0.5},
    "hunyuan": HUNYUAN,
    "minimax": EXPERTS | {"rotary_dim": 32},
    "olmoe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "solar_open": GROUPED | {"partial_rotary_factor": 1.0},
}
BY_WIDTH = {
    "deepseek": EXPERTS,
    "granitemoe": EXPERTS
    | {
        "logits_scaling": 1.0,
        "attention_multiplier": 0.125,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
    },
    "mixtral": EXPERTS,
    "phimoe": EXPERTS
    | {
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 32,
            "long_factor": [1.5] * 32,
            "short_mscale": 1.0,
            "long_mscale": 1.2,
        },
        "original_max_position_embeddings": 64,
    },
    "qwen2_moe": EXPERTS,
}
MOE = {name: Configuration(name, changes) for name, changes in MIXTURES.items()}
MOE |= {name: Configuration(name, WIDE | changes) for name, changes in BY_WIDTH.items()}
MOE |= {
    "dbrx": Configuration(
        "dbrx",
        {
            "d_model": 256,
            "n_layers": 2,
            "n_heads": 4,
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        },
    ),
    "hunyuan-shared-kv": Configuration("hunyuan", HUNYUAN | {"use_cla": True}),
    "nemotron-nas": Configuration(
        "nemotron-nas", WIDE | {"num_hidden_layers": 3, "block_configs": NAS_BLOCKS}
    ),
    "nemotron-nas-linear": Configuration(
        "nemotron-nas",
        WIDE | {"num_hidden_layers": 4, "block_configs": [*NAS_BLOCKS, NAS_LINEAR]},
    ),
    "phi3small": Configuration(
        "phi3small",
        WIDE
        | {
            "dense_attention_every_n_layers": 2,
            "ff_intermediate_size": 128,
            "gegelu_limit": 20.0,
            "layer_norm_epsilon": 1e-5,
            "blocksparse_num_local_blocks": 1,
            "blocksparse_vert_stride": 2,
            "vocab_size": 100352,
        },
        budget=64,
        vocab=100352,
        excused=excuse(
            "its mask of booleans is added to the scores, so that a prompt's tokens see later ones",
            "in chunks",
            "warm",
            "drafted",
            "preempted",
        ),
    ),
    "afm7": Configuration(
        "afm7",
        {
            "hidden_dim": 256,
            "num_layers": 3,
            "num_kv_reuse_layers": 1,
            "num_heads": 4,
            "num_kv_heads": 2,
        },
    ),
    "minimax_m3_vl": Configuration(
        "minimax_m3_vl", inside=MINIMAX_M3 | {"layer_types": ["full_attention"] * 2}
    ),
    "minimax_m3_vl-sparse": Configuration(
        "minimax_m3_vl",
        inside=MINIMAX_M3 | {"layer_types": [FULL, "minimax_m3_sparse"]},
        budget=64,
    ),
}
