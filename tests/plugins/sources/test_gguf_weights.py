"""Converted weights compute what the original computes."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Format
from gguf import quants

from mlxserve_hookspecs import Progress
from mlxserve_plugins.gguf import Form, Gguf, GgufOptions

from .conftest import SHAPE, TOKENS, TinyGguf

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def config(arch: str) -> dict[str, Any]:
    found = {
        "model_type": "gemma3_text" if arch == "gemma3" else arch,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(TOKENS),
        "rope_theta": 10000.0,
        "max_position_embeddings": 128,
        "tie_word_embeddings": arch in ("qwen3", "gemma3"),
        "head_dim": 16,
    }
    if arch == "gemma3":
        found |= {"sliding_window": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}
    return found


def as_gguf(name: str, arch: str) -> str:
    """Return llama.cpp's name of mlx-lm's tensor."""
    names = NAMES | (GEMMA_NORMS if arch == "gemma3" else NORMS)
    found = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert found
    layer, part, kind = found.groups()
    return f"{f'blk.{layer}.' if layer else ''}{names[part]}.{kind}"


def as_llama_cpp_stores(name: str, value: Any, arch: str) -> Any:
    """Do what llama.cpp's own converter does."""
    if arch == "llama" and (found := re.search(r"\.attn_([qk])\.", name)):
        heads = {"q": 4, "k": 2}[found[1]]
        split = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        return split.swapaxes(1, 2).reshape(value.shape)
    return value + 1 if arch == "gemma3" and name.endswith("norm.weight") else value


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma3"])
def test_converted_model_has_the_logits_of_the_original(
    arch: str, tmp_path: Path, quiet: Progress
) -> None:
    import importlib

    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm import load

    module = importlib.import_module(f"mlx_lm.models.{config(arch)['model_type']}")
    original = module.Model(module.ModelArgs.from_dict(config(arch)))
    mx.random.seed(3)
    original.update(
        tree_map(lambda value: mx.random.normal(value.shape) / 4, original.parameters())
    )
    flat: Any = tree_flatten(original.parameters())
    tensors = {as_gguf(name, arch): np.array(value) for name, value in flat}
    if arch == "gemma3":
        tensors.pop("output.weight", None)
        original.lm_head.weight = original.model.embed_tokens.weight
    numbers = dict(SHAPE) | {"attention.key_length": 16}
    if arch == "gemma3":
        numbers |= {"attention.sliding_window": 8, "block_count": 6}
    tiny = TinyGguf(
        arch,
        tensors={name: as_llama_cpp_stores(name, v, arch) for name, v in tensors.items()},
        numbers=numbers,
    )
    path = tiny.write(tmp_path / "tiny.gguf")
    source = Gguf(GgufOptions(tmp_path, "float32")).resolve_model(str(path), quiet)
    assert source
    loaded: Any = load(str(source.folder))
    tokens = mx.array([[5, 80, 7, 200, 33, 9, 1, 77, 14, 3, 90, 250]])
    expected, found = original(tokens), loaded[0](tokens)
    assert mx.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert float(mx.max(mx.abs(expected))) > 0.1


PACKED = [Format.Q4_0, Format.Q4_1, Format.Q5_0, Format.Q5_1, Format.Q8_0]
MATRIX = re.compile(r"token_embd|blk\.\d\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.")


def quantize(tiny: TinyGguf, format_: Format) -> None:
    for name, value in list(tiny.tensors.items()):
        if MATRIX.match(name):
            tiny.tensors[name] = quants.quantize(value, format_)
            tiny.types[name] = format_


def weights(path: Path, cache: Path, form: Form, quiet: Progress) -> dict[str, Any]:
    import mlx.core as mx

    source = Gguf(GgufOptions(cache, form)).resolve_model(str(path), quiet)
    assert source
    loaded: Any = mx.load(str(source.folder / "model-00001.safetensors"))
    return dict(loaded)


@pytest.mark.parametrize("format_", PACKED, ids=lambda f: f.name)
def test_packed_blocks_hold_the_very_numbers(
    tiny: TinyGguf, tmp_path: Path, quiet: Progress, format_: gguf.GGMLQuantizationType
) -> None:
    import mlx.core as mx

    quantize(tiny, format_)
    path = tiny.write(tmp_path / "tiny.gguf")
    exact = weights(path, tmp_path, "float32", quiet)
    packed = weights(path, tmp_path, "packed", quiet)
    bits = int(format_.name[1])
    quantized = [name for name in exact if name.replace("weight", "scales") in packed]
    assert len(quantized) == 15
    for name in quantized:
        base = name.removesuffix("weight")
        scales, biases = packed[f"{base}scales"], packed[f"{base}biases"]
        found = mx.dequantize(packed[name], scales, biases, group_size=32, bits=bits)
        # Exactly the same but for how the last bit of a sum is rounded.
        assert mx.allclose(found, exact[name], rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("format_", [Format.Q4_1, Format.Q8_0], ids=lambda f: f.name)
def test_packed_model_loads_and_computes_the_same(
    tiny: TinyGguf, tmp_path: Path, quiet: Progress, format_: gguf.GGMLQuantizationType
) -> None:
    import mlx.core as mx
    from mlx_lm import load

    quantize(tiny, format_)
    path = tiny.write(tmp_path / "tiny.gguf")
    logits = []
    for form in ("float32", "packed"):
        source = Gguf(GgufOptions(tmp_path, form)).resolve_model(str(path), quiet)
        assert source
        loaded: Any = load(str(source.folder))
        logits.append(loaded[0](mx.array([[5, 80, 7, 200, 33]])))
    assert mx.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_float16_rounds_and_nothing_else(tiny: TinyGguf, tmp_path: Path, quiet: Progress) -> None:
    import mlx.core as mx

    path = tiny.write(tmp_path / "tiny.gguf")
    exact = weights(path, tmp_path, "float32", quiet)
    rounded = weights(path, tmp_path, "float16", quiet)
    assert exact.keys() == rounded.keys()
    assert all(mx.array_equal(rounded[n], exact[n].astype(mx.float16)) for n in exact)


def test_large_models_are_written_in_shards(
    tiny: TinyGguf, tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm import load

    monkeypatch.setattr("mlxserve_plugins.gguf.convert.SHARD_BYTES", 40_000)
    path = tiny.write(tmp_path / "tiny.gguf")
    source = Gguf(GgufOptions(tmp_path, "float32")).resolve_model(str(path), quiet)
    assert source
    assert len(list(source.folder.glob("model-*.safetensors"))) > 2
    load(str(source.folder))
