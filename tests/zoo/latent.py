"""Multi-head latent attention: what is kept per token is one latent, shared by all heads."""

from .building import EXPERTS, LATENT, Configuration

MLA = LATENT | EXPERTS | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
NO_Q = {"q_lora_rank": None}
INDEXED = MLA | {
    "index_head_dim": 64,
    "index_n_heads": 2,
    "index_topk": 64,
}
LONGCAT = LATENT | {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 64,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 4,
    "zero_expert_num": 1,
    "num_layers": 2,
    "routed_scaling_factor": 1.0,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
MISTRAL4 = MLA | {
    "first_k_dense_replace": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 0.3,
        "original_max_position_embeddings": 64,
    },
}
YARN = {
    "rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
}
DEEPSEEK_V41 = {
    "num_hidden_layers": 4,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 32,
    "o_groups": 2,
    "o_lora_rank": 32,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 32,
    "compress_ratios": (0, 4, 4, 4),
    "kv_source_layer_ids": (1,),
    "index_source_layer_ids": (1, 3),
    "index_n_heads": 2,
    "index_head_dim": 64,
    "index_topk": 16,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 4,
}
MLAS = {
    "deepseek_v2": ("deepseek_v2", MLA | YARN | {"topk_method": "greedy"}),
    "deepseek_v2-no-q-lora": ("deepseek_v2", MLA | YARN | NO_Q | {"topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", MLA),
    "deepseek_v3-no-q-lora": ("deepseek_v3", MLA | NO_Q),
    "deepseek_v3-yarn": ("deepseek_v3", MLA | YARN),
    "glm4_moe_lite": ("glm4_moe_lite", MLA),
    "glm4_moe_lite-no-q-lora": ("glm4_moe_lite", MLA | NO_Q),
    "longcat_flash": ("longcat_flash", LONGCAT),
    "longcat_flash_ngram": (
        "longcat_flash_ngram",
        LONGCAT | {"ngram_vocab_size_ratio": 2, "emb_neighbor_num": 3, "emb_split_num": 2},
    ),
}
MULTI_LATENT = {name: Configuration(module, changes) for name, (module, changes) in MLAS.items()}
MULTI_LATENT |= {
    "deepseek_v32": Configuration("deepseek_v32", INDEXED, budget=64),
    "glm_moe_dsa": Configuration(
        "glm_moe_dsa", INDEXED | {"rope_parameters": {"rope_theta": 10000.0}}, budget=64
    ),
    "deepseek_v41": Configuration("deepseek_v41", DEEPSEEK_V41, window=32, budget=64),
    "kimi_k25": Configuration("kimi_k25", inside=MLA),
    "kimi_vl": Configuration("kimi_vl", inside=MLA),
    "mistral4": Configuration("mistral4", MISTRAL4, budget=64),
    "mistral4-no-q-lora": Configuration("mistral4", MISTRAL4 | NO_Q, budget=64),
}
