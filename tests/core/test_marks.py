"""Models whose text files begin with a byte order mark."""

import json
from pathlib import Path

import pytest

from mlxserve.loading import register
from mlxserve.model.finding import find
from mlxserve.model.load import load
from mlxserve.model.marks import MARK, marked, unmarked
from mlxserve.options import ModelOptions
from mlxserve.testing.models import write_model
from mlxserve_plugins.hub import Hub


def mark(path: Path) -> None:
    path.write_bytes(MARK + path.read_bytes())


def test_a_folder_without_marks_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with unmarked(tmp_path) as folder:
        assert folder == tmp_path


def test_files_with_marks_are_copied_clean_and_others_linked(tmp_path: Path) -> None:
    (tmp_path / "Config.JSON").write_bytes(MARK + b'{"a": 1}')
    (tmp_path / "model.safetensors").write_bytes(MARK + b"binary")
    assert marked(tmp_path) == [tmp_path / "Config.JSON"]
    with unmarked(tmp_path) as folder:
        assert json.loads((folder / "Config.JSON").read_text("utf-8")) == {"a": 1}
        assert (folder / "model.safetensors").read_bytes() == MARK + b"binary"
        assert (folder / "model.safetensors").is_symlink()
    assert not folder.exists()
    assert (tmp_path / "Config.JSON").read_bytes().startswith(MARK)


@pytest.mark.parametrize(
    "names",
    [["config.json"], ["tokenizer.json"], ["tokenizer_config.json", "config.json"]],
    ids=" and ".join,
)
def test_a_model_with_marks_is_loaded(tmp_path: Path, names: list[str]) -> None:
    folder = write_model(tmp_path / "model")
    for name in names:
        mark(folder / name)
    options = ModelOptions(model=str(folder))
    plugins = register({"hub": Hub()})
    model = load(plugins, options, find(plugins, options.model, lambda *_: None))
    assert model.config["model_type"] == "llama"
    assert model.text.decode(model.text.encode("the")) == "the"
    assert model.text.has_chat_template
