"""What README and CONTRIBUTING say is so: flags, keys, plugins, hooks, endpoints, quotations."""

import ast
import re
import tomllib
from inspect import getdoc, isfunction
from pathlib import Path

import pytest

from mlxserve.cli.resolution import resolve
from mlxserve.cli.selection import CORE
from mlxserve.engine.service import EngineService
from mlxserve.loading import SPECS
from mlxserve.presets import known_presets
from mlxserve.serve.app import build_app
from mlxserve_hookspecs import PROJECT, EngineStatus
from mlxserve_plugins import DEFAULT
from mlxserve_plugins.metrics.instruments import Instruments

from .documents import (
    CONTRIBUTING,
    DOCUMENTS,
    EXAMPLES,
    INSTALLED,
    PLUGINS,
    PRESETS,
    PYPROJECT,
    README,
    ROOT,
    section_of,
    table,
    texts,
)

EXAMPLE = EXAMPLES / "mlxserve-shortest-first"
LONGEST_README = 250


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < LONGEST_README


def test_readme_leads_with_two_commands_and_ci_runs_the_second() -> None:
    first, second = texts(README, "bash")[:2]
    assert first.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[cpu]' && "
        ".venv/bin/mlxserve run --preset demo"
    )
    assert f"({second.strip()})" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("text", texts(README, "toml"), ids=lambda text: text.splitlines()[0])
def test_toml_in_the_readme_resolves_and_is_where_values_come_from(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "doc.toml").write_text(text)
    resolved, _ = resolve(["--config", str(tmp_path / "doc.toml")], {}, INSTALLED)
    tables = {key: value for key, value in tomllib.loads(text).items() if key != "plugins"}
    said = {(section, key) for section, values in tables.items() for key in values}
    assert said == {(r.section, r.name) for r in resolved.rows if "doc.toml" in r.origin}


def test_presets_in_the_readme_are_the_presets() -> None:
    sentence = README.split("Presets: ", 1)[1].split("\n[", 1)[0]
    named = re.findall(r"`(\w+)` \(", sentence)
    assert sorted(named) == sorted(known_presets(PRESETS))


def test_table_of_plugins_matches_the_entry_points() -> None:
    rows = table(README, "Plugin")
    assert sorted(row[0].strip("`") for row in rows) == sorted(PLUGINS)
    assert {row[0].strip("`") for row in rows if row[3] == "on"} == set(DEFAULT)
    assert {row[3] for row in rows} <= {"on", "off"}


@pytest.mark.parametrize("row", table(README, "Plugin"), ids=lambda row: row[0].strip("`"))
def test_flags_in_the_table_are_the_plugins_or_the_cores(row: list[str]) -> None:
    section = section_of(row[0].strip("`"))
    allowed = frozenset().union(*(core.flags for core in CORE), section.flags if section else ())
    assert set(re.findall(r"--[a-z-]+", row[2])) <= allowed


def test_table_of_endpoints_matches_the_routes_of_all_plugins() -> None:
    resolved, _ = resolve(["--plugins", ",".join(PLUGINS)], {}, INSTALLED)
    app = build_app(resolved, EngineService(resolved))
    served = {
        (method, re.sub(r"\{.*?\}", "{id}", route.path))
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS" and not route.path.startswith("/schema/")
    }
    cells = [
        cell for row in table(DOCUMENTS["docs/api.md"], "Endpoint") for cell in row[0].split(", ")
    ]
    assert {tuple(cell.strip("`").split()) for cell in cells} == served
    assert len(cells) == len(served)
    named = set(re.findall(r"`(/[a-z0-9_/]+)`", README))
    assert named <= {path for _, path in served}
    assert len(named) > 8


def test_metrics_in_the_readme_are_collected() -> None:
    sentence = README.split("- **Metrics.**", 1)[1].split("\n- ", 1)[0]
    named = set(re.findall(r"`([a-z_]+[a-z])`", sentence))
    registry = Instruments(lambda: EngineStatus(ready=True), dict).registry
    assert named <= {metric.name for metric in registry.collect()}
    assert len(named) >= 8


def test_python_in_the_readme_compiles_and_asks_for_the_demo() -> None:
    (block,) = texts(README, "python")
    literals = {n.value for n in ast.walk(ast.parse(block)) if isinstance(n, ast.Constant)}
    resolved, _ = resolve(["--preset", "demo"], {}, INSTALLED)
    assert resolved.model.served_model_name in literals
    assert f"http://{resolved.server.host}:{resolved.server.port}/v1" in literals


@pytest.mark.parametrize("language", ["python", "toml"])
def test_pieces_in_contributing_are_quoted_from_the_example(language: str) -> None:
    source = "\n".join(
        (EXAMPLE / n).read_text()
        for n in ("mlxserve_shortest_first.py", "pyproject.toml", "tests/test_shortest_first.py")
    )
    quoted = texts(CONTRIBUTING, language)
    assert [text for text in quoted if text not in source] == []
    assert quoted


def test_table_of_hooks_matches_the_specifications() -> None:
    declared = {
        (module.__name__.rpartition(".")[2], name, kind)
        for module in SPECS
        for name, spec in vars(module).items()
        if isfunction(spec) and hasattr(spec, f"{PROJECT}_spec")
        for kind in re.findall(r"\*\*(Ask|Tell|Gather)\.\*\*", getdoc(spec) or "")
    }
    said = [(row[0].strip("`"), row[1].strip("`"), row[2]) for row in table(CONTRIBUTING, "Family")]
    assert sorted(said) == sorted(declared)


def test_table_of_the_core_has_its_folders() -> None:
    core = ROOT / "core" / PROJECT
    said = [row[0].strip("`") for row in table(CONTRIBUTING, "Folder of the core")]
    assert sorted(said) == sorted(path.parent.name for path in core.glob("*/__init__.py"))


def test_changelog_has_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {PYPROJECT['project']['version']} " in changes
