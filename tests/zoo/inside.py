"""Multimodal models that mlx-lm serves as text: another module's model inside."""

from .building import EXPERTS, WIDE, Configuration
from .latent import MISTRAL4
from .recurrent import DELTA, LFM2
from .sliding import GEMMA4, SEEN, WINDOW

KIMI_K3 = {
    "linear_attn_config": {
        "kda_layers": [1],
        "full_attn_layers": [2],
        "num_heads": 4,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
    },
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "kv_lora_rank": 64,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 64,
    "v_head_dim": 16,
    "mla_use_nope": True,
    "first_k_dense_replace": 1,
    "hidden_act": "situ",
}
WRAPPED = {
    "gemma3": Configuration(
        "gemma3",
        inside=SEEN
        | {"model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window_pattern": 3},
        window=WINDOW,
    ),
    "gemma4": Configuration("gemma4", inside=GEMMA4 | {"model_type": "gemma4_text"}, window=WINDOW),
    "kimi_k3": Configuration("kimi_k3", inside=KIMI_K3),
    "lfm2-vl": Configuration("lfm2-vl", inside=LFM2),
    "mistral3": Configuration("mistral3", inside={"model_type": "llama"}),
    "mistral3-mistral4": Configuration(
        "mistral3", inside=MISTRAL4 | {"model_type": "mistral4"}, budget=64
    ),
    "prism_hadamard_qwen35": Configuration(
        "prism_hadamard_qwen35",
        {
            "schema_version": 1,
            "tensor_namespace": "mlx-lm-text",
            "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
            "modules": [
                {
                    "path": "model.layers.0.mlp.down_proj",
                    "embedding": False,
                    "dtype": "float16",
                    "block": 512,
                }
            ],
        },
        inside=DELTA | {"intermediate_size": 512},
    ),
    "pixtral": Configuration("pixtral", inside={"model_type": "llama"}),
    "qwen2_vl": Configuration("qwen2_vl", inside=WIDE | {"model_type": "qwen2"}),
    "qwen3_5_moe": Configuration("qwen3_5_moe", inside=DELTA | EXPERTS),
    "qwen3_vl": Configuration("qwen3_vl", inside={"model_type": "qwen3"}),
    "qwen3_vl_moe": Configuration("qwen3_vl_moe", inside=EXPERTS | {"model_type": "qwen3_moe"}),
}
