import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from mlxserve_hookspecs import ModelError, ModelSource, Progress
from mlxserve_plugins.gguf import Form, Gguf, GgufOptions

from .conftest import TOKENS, TinyGguf

TEXT = "hello world, 1234 <|im_end|> Zwölf 🎉\n\n"


def resolve(path: Path, cache: Path, progress: Progress, form: Form = "float32") -> ModelSource:
    source = Gguf(GgufOptions(cache, form)).resolve_model(str(path), progress)
    assert source is not None
    return source


@pytest.fixture
def file(tiny: TinyGguf, tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny.Q4.gguf")


def test_converted_model_loads_and_answers(file: Path, tmp_path: Path, quiet: Progress) -> None:
    import mlx.core as mx
    from mlx_lm import load

    source = resolve(file, tmp_path / "cache", quiet)
    loaded: Any = load(str(source.folder))
    model, tokenizer = loaded[:2]
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    assert tokens[0] == TOKENS.index("hello")
    assert TOKENS.index("<|im_end|>") in tokens
    assert model(mx.array([tokens])).shape == (1, len(tokens), len(TOKENS))
    assert tokenizer.eos_token_ids == {TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>")}
    assert source.name == "tiny.Q4"


def test_second_start_converts_nothing(file: Path, tmp_path: Path, quiet: Progress) -> None:
    told: list[str] = []
    first = resolve(file, tmp_path / "cache", quiet)
    again = resolve(file, tmp_path / "cache", lambda what, *_: told.append(what))
    assert again == first
    assert told == []


def test_moved_file_is_known_by_its_content(file: Path, tmp_path: Path, quiet: Progress) -> None:
    first = resolve(file, tmp_path / "cache", quiet)
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / file.name)
    told: list[str] = []
    assert resolve(moved, tmp_path / "cache", lambda what, *_: told.append(what)) == first
    assert set(told) == {f"checking {file.name}"}


def test_damaged_conversion_is_made_again(file: Path, tmp_path: Path, quiet: Progress) -> None:
    source = resolve(file, tmp_path / "cache", quiet)
    weights = source.folder / "model-00001.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5] + b"wrong")
    assert resolve(file, tmp_path / "cache", quiet) == source
    assert weights.read_bytes() == whole


def test_changed_file_is_another_model(
    tiny: TinyGguf, file: Path, tmp_path: Path, quiet: Progress
) -> None:
    first = resolve(file, tmp_path / "cache", quiet)
    tiny.tensors["output_norm.weight"] = tiny.tensors["output_norm.weight"] * 2
    tiny.write(file)
    second = resolve(file, tmp_path / "cache", quiet)
    assert (second.folder, second.identity) != (first.folder, first.identity)
    assert first.folder != second.folder


KILLED = """
import os, signal, sys
from pathlib import Path
from mlxserve_plugins.gguf import Gguf, GgufOptions

def progress(what, done, total):
    if what.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

Gguf(GgufOptions(Path(sys.argv[2]), "float32")).resolve_model(sys.argv[1], progress)
"""


@pytest.mark.parametrize(
    "moment", ["checking tiny.Q4.gguf", "converting", "checking tiny.Q4-"], ids=str
)
def test_killed_conversion_is_made_by_the_next_start(
    file: Path, tmp_path: Path, quiet: Progress, moment: str
) -> None:
    cache = tmp_path / "cache"
    argv = [sys.executable, "-c", KILLED, str(file), str(cache), moment]
    assert subprocess.run(argv, check=False).returncode == -9
    source = resolve(file, cache, quiet)
    assert (source.folder / "manifest.json").is_file()
    assert not list(cache.glob(".*making*"))


def damaged(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + b"\xff" * 8 + content[at + 8 :]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"hello" * 20, id="no GGUF at all"),
        pytest.param(lambda content: content[:20], id="cut in the header"),
        pytest.param(lambda content: content[:2000], id="cut in the vocabulary"),
        pytest.param(lambda content: content[:-100], id="cut in the weights"),
        pytest.param(damaged(8), id="a tensor count beyond belief"),
        pytest.param(damaged(16), id="a key count beyond belief"),
        pytest.param(damaged(24), id="a length beyond belief"),
    ],
)
def test_damaged_file_is_one_line(
    file: Path, tmp_path: Path, quiet: Progress, spoil: Callable[[bytes], bytes]
) -> None:
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ModelError) as caught:
        resolve(file, tmp_path / "cache", quiet)
    assert "no whole GGUF file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("tiny*"))


def test_array_longer_than_the_file_ends_at_once(
    file: Path, tmp_path: Path, quiet: Progress
) -> None:
    content = file.read_bytes()
    at = content.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    huge = (1 << 60).to_bytes(8, "little")
    file.write_bytes(content[:at] + huge + content[at + 8 :])
    with pytest.raises(ModelError, match="no whole GGUF file"):
        resolve(file, tmp_path / "cache", quiet)


def refused(
    tiny: TinyGguf, what: Literal["arch", "pre", "kind", "tensor", "rope", "experts"]
) -> str:
    match what:
        case "arch":
            tiny.arch = "mamba"
            tiny.numbers = {}
            return "architecture 'mamba' is not one of llama, qwen2, qwen3, gemma3"
        case "pre":
            tiny.strings["tokenizer.ggml.pre"] = "falcon"
            return "pre-tokenizer 'falcon' is not supported"
        case "kind":
            tiny.strings["tokenizer.ggml.model"] = "llama"
            return "a 'llama' tokenizer in 'llama' is not supported"
        case "tensor":
            tiny.tensors["rope_freqs.weight"] = tiny.tensors["output_norm.weight"]
            return "tensor 'rope_freqs.weight' is unknown in 'llama'"
        case "rope":
            tiny.strings["llama.rope.scaling.type"] = "yarn"
            return "yarn rope scaling in 'llama' is not supported"
        case "experts":
            tiny.numbers["expert_count"] = 8
            return "a mixture of experts in 'llama' is not supported"


@pytest.mark.parametrize("what", ["arch", "pre", "kind", "tensor", "rope", "experts"])
def test_what_we_cannot_convert_exactly_is_refused(
    tiny: TinyGguf, tmp_path: Path, quiet: Progress, what: Any
) -> None:
    words = refused(tiny, what)
    with pytest.raises(ModelError) as caught:
        resolve(tiny.write(tmp_path / "tiny.gguf"), tmp_path / "cache", quiet)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "context_length"])
def test_missing_metadata_is_named(
    tiny: TinyGguf, tmp_path: Path, quiet: Progress, key: str
) -> None:
    del tiny.numbers[key]
    with pytest.raises(ModelError, match=f"no metadata 'llama.{key}'"):
        resolve(tiny.write(tmp_path / "tiny.gguf"), tmp_path / "cache", quiet)


def test_broken_merge_is_said(tiny: TinyGguf, tmp_path: Path, quiet: Progress) -> None:
    tiny.merges = ["he l"]
    with pytest.raises(ModelError, match="its vocabulary"):
        resolve(tiny.write(tmp_path / "tiny.gguf"), tmp_path / "cache", quiet)


def test_missing_file_is_said(tmp_path: Path, quiet: Progress) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        resolve(tmp_path / "missing.gguf", tmp_path / "cache", quiet)


@pytest.mark.parametrize("reference", ["pypi:thing.gguf", "org/name", "folder"])
def test_other_references_are_left_to_others(reference: str, quiet: Progress) -> None:
    assert Gguf(GgufOptions()).resolve_model(reference, quiet) is None


def test_cache_that_cannot_be_written_is_said(file: Path, tmp_path: Path, quiet: Progress) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(ModelError, match="--model-cache-dir"):
        resolve(file, tmp_path / "cache", quiet)


def test_auto_keeps_float32_on_the_cpu_while_it_fits(
    file: Path, tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve(file, tmp_path / "cache", quiet, "auto").folder.name.endswith("-float32")
    monkeypatch.setattr(os, "sysconf", lambda name: 64)
    assert resolve(file, tmp_path / "cache", quiet, "auto").folder.name.endswith("-packed")


def test_configuration_says_what_the_file_says(file: Path, tmp_path: Path, quiet: Progress) -> None:
    config = json.loads((resolve(file, tmp_path, quiet).folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["rms_norm_eps"] == 1e-5
    assert config["num_key_value_heads"] == 2
    assert config["tie_word_embeddings"] is True
    assert "quantization" not in config
