import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import ModelError, Progress
from mlxserve_plugins.hub import Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_folder_is_served_under_its_own_name(model_folder: Path, quiet: Progress) -> None:
    source = Hub().resolve_model(str(model_folder), quiet)
    assert source is not None
    assert source.folder == model_folder
    assert source.name == "model"


def test_identity_changes_with_a_file_and_with_nothing_else(
    model_folder: Path, quiet: Progress
) -> None:
    def identity() -> str:
        source = Hub().resolve_model(str(model_folder), quiet)
        assert source is not None
        return source.identity

    before = identity()
    assert identity() == before
    os.utime(model_folder / "model-00001-of-00002.safetensors", ns=(1, 1))
    assert identity() != before


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def cut(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])


def strip(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(remove("config.json"), "has no config.json", id="no config"),
        pytest.param(write("config.json", "{"), "config.json cannot be read", id="broken config"),
        pytest.param(write("config.json", "[]"), "no JSON object", id="config is a list"),
        pytest.param(write("config.json", "{}"), "no model_type", id="not a language model"),
        pytest.param(
            remove("model-00002-of-00002.safetensors"),
            "lacks model-00002-of-00002.safetensors, one of 2",
            id="a shard is missing",
        ),
        pytest.param(cut, "model-00002-of-00002.safetensors is cut off", id="a shard is cut off"),
        pytest.param(
            write("model-00001-of-00002.safetensors", "\x00" * 30),
            "header is broken",
            id="a shard is damaged",
        ),
        pytest.param(
            write("model-00001-of-00002.safetensors", ""), "header is broken", id="a shard is empty"
        ),
        pytest.param(
            write("model.safetensors.index.json", "{}"), "no weight_map", id="an empty index"
        ),
        pytest.param(strip, "has no weights", id="no weights"),
        pytest.param(remove("tokenizer.json"), "has no tokenizer", id="no tokenizer"),
    ],
)
def test_folder_with_a_fault_is_one_line_that_names_it(
    model_folder: Path, quiet: Progress, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(model_folder)
    with pytest.raises(ModelError) as caught:
        Hub().resolve_model(str(model_folder), quiet)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["pypi:thing", "some/model.gguf", "some/MODEL.GGUF", "nonsense"]
)
def test_other_references_are_left_to_others(reference: str, quiet: Progress) -> None:
    assert Hub().resolve_model(reference, quiet) is None


@pytest.mark.parametrize("reference", ["./missing/here", "/missing", "a/b/c", "../x"])
def test_path_that_leads_nowhere_is_said(reference: str, quiet: Progress) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Hub().resolve_model(reference, quiet)


def test_file_is_refused(tmp_path: Path, quiet: Progress) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file"):
        Hub().resolve_model(str(tmp_path / "model.safetensors"), quiet)


def test_repository_is_downloaded_and_named_by_its_commit(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = model_folder.rename(model_folder.with_name(COMMIT))

    def snapshot_download(repository: str, *, allow_patterns: list[str], tqdm_class: Any) -> str:
        assert "model*.safetensors" in allow_patterns
        wire = tqdm_class(total=0, unit="B", name="huggingface_hub.snapshot_download.transfer")
        disk = tqdm_class(total=0, unit="B", name="huggingface_hub.snapshot_download")
        files = tqdm_class(total=2)
        disk.total += 10
        for bar in (wire, disk, files):
            bar.update(4)
        disk.update(6)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    source = Hub().resolve_model("org/name", lambda *told: seen.append(told))
    assert source is not None
    assert source.identity == f"hub:org/name@{COMMIT}"
    assert source.name is None
    assert seen == [("downloading org/name", 4, 10), ("downloading org/name", 10, 10)]


def test_hub_out_of_reach_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Progress
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        Hub().resolve_model("org/not-here", quiet)


@pytest.mark.parametrize(
    ("name", "words"),
    [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "nor a repository on the hub")],
)
def test_refusal_of_the_hub_is_said(
    monkeypatch: pytest.MonkeyPatch, quiet: Progress, name: str, words: str
) -> None:
    from huggingface_hub import errors

    refusal = type("Refusal", (getattr(errors, name),), {"__init__": lambda self: None})

    def snapshot_download(*_: object, **__: object) -> str:
        raise refusal

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=words):
        Hub().resolve_model("org/name", quiet)
