"""What ``examples/deploy`` and ``examples/grafana`` say holds for the server as it is."""

import json
import plistlib
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, cast

import pytest

from mlxserve.cli.resolution import resolve
from mlxserve.loading import installed
from mlxserve_hookspecs import EngineStatus
from mlxserve_plugins.metrics import Metrics

from .scripted import MakeStage

EXAMPLES = Path(__file__).parents[2] / "examples"
DEPLOY = EXAMPLES / "deploy"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "mlxserve.json").read_text())
INSTALLED = installed(cast(EntryPoints, entry_points()))
LONGEST_FLUSH_S = 15.0
WORDS_OF_PROMQL = {"sum", "min", "max", "by", "rate", "scalar", "histogram_quantile"}


def unit(key: str) -> list[str]:
    text = (DEPLOY / "mlxserve.service").read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def plist() -> dict[str, Any]:
    return cast(dict[str, Any], plistlib.loads((DEPLOY / "org.mlxserve.server.plist").read_bytes()))


def of_systemd() -> tuple[list[str], dict[str, str], float]:
    variables = dict(pair.split("=", 1) for pair in unit("Environment"))
    return shlex.split(unit("ExecStart")[0]), variables, float(unit("TimeoutStopSec")[0])


def of_launchd() -> tuple[list[str], dict[str, str], float]:
    job = plist()
    return job["ProgramArguments"], job["EnvironmentVariables"], float(job["ExitTimeOut"])


@pytest.mark.parametrize("read", [of_systemd, of_launchd], ids=["systemd", "launchd"])
def test_unit_runs_with_its_settings_and_time_to_drain(read: Any) -> None:
    words, variables, timeout = read()
    assert Path(words[0]).name == "mlxserve"
    assert words[1] == "run"
    settings = str(DEPLOY / "settings.toml")
    words = [settings if word.endswith("settings.toml") else word for word in words[2:]]
    resolved, _ = resolve(words, variables, INSTALLED)
    assert timeout > resolved.server.shutdown_timeout_s + LONGEST_FLUSH_S
    assert {"$MLXSERVE_API_KEY_FILE", "preset studio"} <= {
        word for row in resolved.rows for word in re.findall(r"\$\w+|preset \w+", row.origin)
    }


def test_supervisor_does_not_restart_what_ended_well() -> None:
    assert plist()["KeepAlive"] == {"SuccessfulExit": False}
    assert unit("Restart") == ["on-failure"]
    assert unit("RestartPreventExitStatus") == ["2"]


def test_image_has_what_the_build_needs_and_both_backends() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()}
    assert all((EXAMPLES.parent / path).exists() for path in copied)
    project = (EXAMPLES.parent / "pyproject.toml").read_text()
    packages = re.search(r"^packages = \[(.*)\]$", project, re.M)
    assert packages is not None
    assert {path.split("/")[0] for path in re.findall(r'"(.*?)"', packages[1])} <= copied
    for backend in ("cpu", "cuda"):
        assert re.search(rf"^{backend} = \[", project, re.M)


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from re.findall(r"label_values\((\w+),", json.dumps(DASHBOARD["templating"]))


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|by \(.*?\)", " ", expression)
    return set(re.findall(r"[a-z_]\w*", bare)) - WORDS_OF_PROMQL


@pytest.fixture
def exposed(make_stage: MakeStage) -> set[str]:
    """Return the names that ``/metrics`` exposes."""
    stage = make_stage(Metrics())
    counters = {"preemptions": 1.0, "finished_stop": 1.0, "finished_error": 1.0}
    stage.service.status = EngineStatus(ready=True, total_blocks=9, counters=counters)
    text = stage.http.get("/metrics").text
    names = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    families = re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE)
    names |= {name for name, kind in families if kind in ("counter", "unknown", "untyped")}
    return names | {f"{name}_bucket" for name, kind in families if kind == "histogram"}


def test_dashboard_asks_for_metrics_that_exist(exposed: set[str]) -> None:
    asked = set().union(*map(metrics_of, expressions()))
    assert len(asked) > 20
    assert asked - exposed == set()


def test_dashboard_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
