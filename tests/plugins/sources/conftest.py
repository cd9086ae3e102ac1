"""Tiny models as GGUF files and as folders, with random weights."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from attrs import define, field

WORDS = ["he", "ll", "hell", "hello", "Ġw", "or"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def byte_alphabet() -> list[str]:
    """Return GPT-2's letters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(rest))]


TOKENS = byte_alphabet() + WORDS + SPECIAL


@define
class TinyGguf:
    """What goes into a file; a test changes it, then writes.

    Attributes:
        arch: GGUF's architecture.
        tensors: By name; float32, or bytes of blocks with ``types``.
        types: Formats of the tensors that are no float32.
        numbers: Metadata of the architecture.
        strings: Other metadata.
        merges: Of the tokenizer.
    """

    arch: str = "llama"
    tensors: dict[str, Any] = field(factory=dict)
    types: dict[str, gguf.GGMLQuantizationType] = field(factory=dict)
    numbers: dict[str, int | float] = field(factory=dict)
    strings: dict[str, str] = field(factory=dict)
    merges: list[str] = field(factory=lambda: list(MERGES))

    def write(self, path: Path) -> Path:
        """Write the file."""
        writer = gguf.GGUFWriter(path, self.arch)
        for key, value in self.numbers.items():
            if isinstance(value, float):
                writer.add_float32(f"{self.arch}.{key}", value)
            else:
                writer.add_uint32(f"{self.arch}.{key}", value)
        strings = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"} | self.strings
        for key, text in strings.items():
            writer.add_string(key, text)
        writer.add_token_list(TOKENS)
        writer.add_token_types([1] * (len(TOKENS) - len(SPECIAL)) + [3] * len(SPECIAL))
        writer.add_token_merges(self.merges)
        writer.add_eos_token_id(TOKENS.index("<|im_end|>"))
        for name, value in self.tensors.items():
            writer.add_tensor(name, value, raw_dtype=self.types.get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


SHAPE: Mapping[str, int | float] = {
    "context_length": 128,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "block_count": 2,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
}


def llama_tensors() -> dict[str, Any]:
    """Return random weights of the shape above, in GGUF's names."""
    random = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) / 8).astype(np.float32)

    ones = np.ones(64, np.float32)
    found = {"token_embd.weight": matrix(len(TOKENS), 64), "output_norm.weight": ones}
    for layer in range(2):
        rows = {"attn_q": 64, "attn_k": 32, "attn_v": 32, "attn_output": 64}
        found |= {f"blk.{layer}.{name}.weight": matrix(n, 64) for name, n in rows.items()}
        found |= {f"blk.{layer}.{name}.weight": matrix(96, 64) for name in ("ffn_gate", "ffn_up")}
        found[f"blk.{layer}.ffn_down.weight"] = matrix(64, 96)
        found |= {f"blk.{layer}.{name}.weight": ones for name in ("attn_norm", "ffn_norm")}
    return found


@pytest.fixture
def tiny() -> TinyGguf:
    """Return a small llama that can be written."""
    return TinyGguf(tensors=llama_tensors(), numbers=dict(SHAPE))


@pytest.fixture
def quiet() -> Callable[[str, int, int | None], None]:
    """Return a progress that nobody sees."""

    def progress(what: str, done: int, total: int | None) -> None:
        assert what
        assert total is None or done <= total

    return progress


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Return a folder as mlx-lm likes it: two shards, an index, a tokenizer."""
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, shard in shards.items():
        save_file({name: np.ones(4, np.float32)}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder
