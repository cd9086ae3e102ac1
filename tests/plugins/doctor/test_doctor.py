"""The doctor names what keeps a server from starting, and says what to do."""

import json
import socket
import sys
from pathlib import Path

import pytest

from mlxserve.cli import main
from mlxserve_plugins.doctor import looking
from mlxserve_plugins.doctor.command import line_of
from mlxserve_plugins.doctor.looking import Finding


def states(findings: "list[Finding]") -> list[str]:
    return [finding.state for finding in findings]


def test_a_port_in_use_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (found,) = looking.port("127.0.0.1", taken.getsockname()[1])
    assert found.state == "problem"
    assert "--port" in found.remedy
    assert states(list(looking.port("127.0.0.1", 0))) == ["ok"]
    assert states(list(looking.port("192.0.2.1", 0))) == ["problem"]


def test_a_folder_without_weights_is_a_problem(tmp_path: Path, tiny_model: Path) -> None:
    (found,) = looking.model(str(tmp_path))
    assert (found.state, found.what) == (
        "problem",
        f"{tmp_path} has no config.json and no weights",
    )
    assert states(list(looking.model(str(tiny_model)))) == ["ok"]
    assert states(list(looking.model(str(tmp_path / "nowhere")))) == ["problem"]


def test_a_model_that_must_be_fetched_offline_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = "nobody/has-fetched-this-one"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert states(list(looking.model(reference))) == ["ok"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert states(list(looking.model(reference))) == ["problem"]


@pytest.mark.parametrize(("memory", "state"), [(1, "problem"), (1.1, "warning"), (2, "ok")])
def test_weights_are_compared_with_memory(
    memory: float, state: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(f.stat().st_size for f in tiny_model.glob("*.safetensors"))
    monkeypatch.setattr(looking, "total_memory", lambda: int(weights * memory) - (memory == 1))
    assert states(list(looking.memory(str(tiny_model)))) == [state]


def test_a_disk_without_room_is_a_warning_and_one_that_cannot_be_written_a_problem(
    tmp_path: Path,
) -> None:
    assert states(list(looking.disk(str(tmp_path / "new" / "folder"), 0.0))) == ["ok"]
    assert list(tmp_path.iterdir()) == []
    assert states(list(looking.disk(str(tmp_path), 1e9))) == ["warning"]
    (tmp_path / "file").touch()
    assert states(list(looking.disk(str(tmp_path / "file" / "kv"), 0.0))) == ["problem"]


def test_broken_plugins_are_named() -> None:
    rows = [
        {"name": "a", "error": "it is broken", "active": True},
        {"name": "b", "error": "", "active": True, "replaces_builtin": False},
    ]
    first, *_ = looking.plugins(rows, "")
    assert (first.state, first.remedy) == ("problem", "do without: --plugins no:a")
    assert states(list(looking.plugins([], "it is broken"))) == ["problem"]


def test_a_backend_that_does_not_compute_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: libmlx.so is not there' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    (found,) = looking.backend()
    assert found.state == "problem"
    assert "libmlx.so is not there" in found.what


def test_findings_are_lines() -> None:
    assert line_of(Finding("port", "ok", "it is free")) == "ok       port      it is free"
    assert line_of(Finding("port", "problem", "taken", "stop it")).endswith("taken: stop it")


def test_command_looks_at_everything_and_says_so_by_its_status(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", str(tiny_model), "--host", "127.0.0.1", "--port", "0")
    disk = ("--ssd-cache-dir", str(tmp_path))
    assert main(["doctor", *words, *disk, "--json", "--", "--ssd-min-free-gb", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["area"] for row in found} == {
        "machine", "backend", "settings", "model", "memory", "port", "disk", "plugins",
    }  # fmt: skip
    assert main(["doctor", "--", "--port", "many"]) == 1
    said = capsys.readouterr().out
    assert "problem  settings  --port must be a whole number, not 'many'" in said
