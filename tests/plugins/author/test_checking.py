"""``plugins check`` and ``plugins --trace``, as an author calls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxserve_hookspecs import PluginError
from mlxserve_plugins.author.checking import plugins_of
from mlxserve_plugins.author.writing import write

BROKEN = "return sorted(waiting, key=lambda c: (self.work(c, now), c.arrived))"


def installed(folder: Path) -> dict[str, str]:
    """Return an environment in which a written package is installed, as pip would leave it."""
    info = folder / "mlxserve_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlxserve-mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[mlxserve]\nmine = mlxserve_mine:Mine\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def mlxserve(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mlxserve", *words]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def test_check_passes_what_keeps_the_contract_and_names_the_clause_that_is_broken(
    tmp_path: Path,
) -> None:
    folder = write("mine", "parser", tmp_path)
    env = installed(folder)
    fine = mlxserve(env, "plugins", "check", "mlxserve-mine")
    assert fine.returncode == 0, fine.stdout
    assert "TestMineOutputParserContract::test_plain_text_is_content PASSED" in fine.stdout
    assert "only the plugin's own tests know `replies`" in fine.stdout
    module = folder / "mlxserve_mine.py"
    module.write_text(module.read_text().replace("OutputDelta(content=text)", "OutputDelta()"))
    broken = mlxserve(env, "plugins", "check", "mlxserve-mine")
    assert broken.returncode == 1
    assert "test_plain_text_is_content FAILED" in broken.stdout


def test_check_of_what_is_not_there_is_one_line() -> None:
    with pytest.raises(PluginError, match="no distribution 'mlxserve-nothing' is installed"):
        plugins_of("mlxserve-nothing")
    with pytest.raises(PluginError, match="attrs announces no plugins"):
        plugins_of("attrs")


def test_trace_shows_hook_plugin_time_and_answer() -> None:
    done = mlxserve(dict(os.environ), "plugins", "--trace")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("hook ")]
    heard = {(line[1], line[2]) for line in lines}
    assert {("make_policy", "fcfs"), ("preparing", "cpu-blas"), ("routes", "openai")} <= heard
    assert {("request_received", "metrics"), ("request_finished", "metrics")} <= heard
    (policy,) = [line for line in lines if line[1] == "make_policy"]
    assert float(policy[3]) >= 0
    assert policy[4] == "ms"
    assert "FcfsPolicy" in " ".join(policy[5:])
