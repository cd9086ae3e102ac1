import json
import os
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions

from .made_up import Fill, OpenTier, layout, numbered, run_path, run_paths

DAY = 86400.0


def cache(folder: Path, *words: str, **options: Any) -> int:
    """Run ``mlxserve cache`` with ``words``."""
    (command,) = SsdTier(SsdTierOptions(cache_dir=folder, **options)).commands()
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def two_runs(filled: Fill) -> Fill:
    filled(numbered(16))
    filled(numbered(4, 900))
    return filled


@pytest.mark.usefixtures("two_runs")
def test_stats_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache(tmp_path, "stats", "--json") == 0
    (row,) = answer(capsys)["namespaces"]
    assert (row["files"], row["blocks"], row["server"]) == (2, 20, "")
    assert row["bytes"] == sum(path.stat().st_size for path in run_paths(tmp_path))
    assert cache(tmp_path, "stats") == 0
    assert "2 files  20 blocks" in capsys.readouterr().out


@pytest.mark.usefixtures("two_runs")
def test_ls_lists_the_last_used_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = time.time() - 2 * DAY
    os.utime(run_path(tmp_path, numbered(1)[0]), (past, past))
    assert cache(tmp_path, "ls", "--json") == 0
    assert [(row["blocks"], row["tokens"]) for row in answer(capsys)] == [(4, 16), (16, 64)]
    assert cache(tmp_path, "ls") == 0
    assert "2.00 days" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.usefixtures("two_runs")
def test_verify_names_what_is_torn_and_prune_removes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache(tmp_path, "verify") == 0
    assert capsys.readouterr().out == "2 files, 0 torn\n"
    path = run_path(tmp_path, numbered(1)[0])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (path.parent / "left.safetensors.tmp").write_bytes(b"")
    assert cache(tmp_path, "verify") == 1
    assert f"{path}: " in capsys.readouterr().out
    assert cache(tmp_path, "prune", "--json") == 0
    found = answer(capsys)
    assert (found["torn"], found["quarantined"], found["leftovers"]) == (1, 1, 1)
    assert cache(tmp_path, "verify") == 0
    assert run_paths(tmp_path) == [run_path(tmp_path, numbered(1, 900)[0])]


@pytest.mark.usefixtures("two_runs")
def test_prune_holds_to_ttl_and_cap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = time.time() - 2 * DAY
    os.utime(run_path(tmp_path, numbered(1)[0]), (past, past))
    assert cache(tmp_path, "prune", "--json", ttl_days=3) == 0
    assert answer(capsys)["expired"] == 0
    assert cache(tmp_path, "prune", "--json", ttl_days=1) == 0
    assert answer(capsys)["expired"] == 1
    assert cache(tmp_path, "prune", "--json", max_size_gb=1e-9) == 0
    assert answer(capsys)["over_size"] == 1
    assert run_paths(tmp_path) == []


@pytest.mark.usefixtures("two_runs")
def test_clear_deletes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache(tmp_path, "clear") == 0
    assert "2 files deleted" in capsys.readouterr().out
    assert run_paths(tmp_path) == []


@pytest.mark.parametrize("action", ["prune", "clear"])
def test_nothing_is_changed_under_a_server(
    open_tier: OpenTier, two_runs: Fill, tmp_path: Path, action: str
) -> None:
    del two_runs
    open_tier(layout(b"m" * 16))
    with pytest.raises(SettingError, match=f"in use by process {os.getpid()}"):
        cache(tmp_path, action)
    assert len(run_paths(tmp_path)) == 2


@pytest.mark.usefixtures("two_runs")
def test_looking_is_allowed_under_a_server(
    open_tier: OpenTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_tier()
    assert cache(tmp_path, "stats") == 0
    assert f"in use by process {os.getpid()}" in capsys.readouterr().out
    assert cache(tmp_path, "verify") == 0


@pytest.mark.parametrize("action", ["stats", "ls", "verify", "prune", "clear"])
def test_a_folder_that_is_not_there_is_empty(tmp_path: Path, action: str) -> None:
    assert cache(tmp_path / "none" / "yet", action) == 0
    assert not (tmp_path / "none").exists()
