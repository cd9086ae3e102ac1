"""From GGUF's metadata to ``config.json``, refusing what mlx-lm would compute otherwise."""

from typing import Any, Final

from mlxserve_hookspecs import ModelError
from mlxserve_plugins.gguf.reader import GgufFile
from mlxserve_plugins.gguf.weights import GROUP

CLASSES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
GEMMA_27B_LAYERS: Final = 62


def check_supported(file: GgufFile) -> None:
    """Return if the model is one that we convert without a difference.

    Raises:
        ModelError: It is another architecture, or uses a feature of its own.
    """
    if file.architecture not in CLASSES:
        raise ModelError(
            f"{file.name} cannot be converted: architecture {file.architecture!r} is not one of "
            f"{', '.join(CLASSES)}"
        )
    refused = {
        "a mixture of experts": file.of_model("expert_count", 0),
        "partly rotated heads": file.of_model("rope.dimension_count", _head(file)) != _head(file),
        f"{_scaling(file)} rope scaling": _scaling(file) not in ("none", "linear"),
    }
    for what, found in refused.items():
        if found:
            raise ModelError(
                f"{file.name} cannot be converted: {what} in {file.architecture!r} is not supported"
            )


def model_config(file: GgufFile, dtype: str, bits: dict[str, int]) -> dict[str, Any]:
    """Return what ``config.json`` says.

    Args:
        file: The open file.
        dtype: The name of the weights' dtype.
        bits: Bits per code, by module, of what stayed quantized.
    """
    heads = file.of_model("attention.head_count")
    config = {
        "architectures": [CLASSES[file.architecture]],
        "model_type": "gemma3_text" if file.architecture == "gemma3" else file.architecture,
        "vocab_size": len(file.get("tokenizer.ggml.tokens")),
        "hidden_size": file.of_model("embedding_length"),
        "intermediate_size": file.of_model("feed_forward_length"),
        "num_hidden_layers": file.of_model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.of_model("attention.head_count_kv", heads),
        "head_dim": _head(file),
        "max_position_embeddings": file.of_model("context_length"),
        # It is a float32 there: 9.999999747378752e-06 was meant as 1e-05.
        "rms_norm_eps": float(f"{file.of_model('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": file.of_model("rope.freq_base", 10000.0),
        "hidden_act": "gelu_pytorch_tanh" if file.architecture == "gemma3" else "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": dtype,
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id", None),
        "eos_token_id": file.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id", None),
    }
    return config | _own(file) | _rope(file) | _quantization(bits)


def _own(file: GgufFile) -> dict[str, Any]:
    if file.architecture == "llama":
        biases = any(name.endswith("attn_q.bias") for name in file.tensors)
        return {"attention_bias": biases, "mlp_bias": False}
    if file.architecture != "gemma3":
        return {}
    # GGUF holds no key for these; they are the architecture's constants.
    large = file.of_model("block_count") == GEMMA_27B_LAYERS
    per_head = file.of_model("embedding_length") // file.of_model("attention.head_count")
    return {
        "query_pre_attn_scalar": per_head if large else _head(file),
        "rope_local_base_freq": 10000.0,
        "sliding_window": file.of_model("attention.sliding_window"),
        "sliding_window_pattern": 6,
    }


def _rope(file: GgufFile) -> dict[str, Any]:
    if _scaling(file) == "none":
        return {}
    return {"rope_scaling": {"rope_type": "linear", "factor": file.of_model("rope.scaling.factor")}}


def _quantization(bits: dict[str, int]) -> dict[str, Any]:
    if not bits:
        return {}
    layers = {path: {"group_size": GROUP, "bits": count} for path, count in bits.items()}
    return {"quantization": {"group_size": GROUP, "bits": next(iter(bits.values()))} | layers}


def _head(file: GgufFile) -> int:
    per_head = file.of_model("embedding_length") // file.of_model("attention.head_count")
    return int(file.of_model("attention.key_length", per_head))


def _scaling(file: GgufFile) -> str:
    return str(file.of_model("rope.scaling.type", "none"))
