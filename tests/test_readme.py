"""What README and CONTRIBUTING say is so: flags, keys, plugins, hooks, endpoints, quotations."""

import ast
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from inspect import getdoc, isfunction
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from mlxserve.cli.resolution import resolve
from mlxserve.cli.selection import CORE
from mlxserve.engine.service import EngineService
from mlxserve.loading import PRESETS_GROUP, SPECS, Installed
from mlxserve.presets import known_presets
from mlxserve.serve.app import build_app
from mlxserve.settings import RESERVED, Section, options_class
from mlxserve.tracing import VARIABLE as TRACE
from mlxserve_hookspecs import PROJECT, EngineStatus
from mlxserve_plugins import DEFAULT
from mlxserve_plugins.metrics.instruments import Instruments

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "mlxserve-shortest-first"
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
README, CONTRIBUTING = DOCUMENTS.values()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
POINTS = PYPROJECT["project"]["entry-points"]
PLUGINS = {name: EntryPoint(name, to, PROJECT) for name, to in POINTS[PROJECT].items()}
PRESETS = [EntryPoint(name, to, PRESETS_GROUP) for name, to in POINTS[PRESETS_GROUP].items()]
INSTALLED = Installed(PLUGINS, default=DEFAULT, presets=tuple(PRESETS))
LONGEST_README = 250
OWN_COMMANDS = {"run", "plugins", "config"}


@frozen
class Fence:
    """One fenced block."""

    language: str
    text: str


def fences(document: str) -> list[Fence]:
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", document, re.MULTILINE | re.DOTALL)
    return [Fence(language, textwrap.dedent(text)) for language, text in found]


def texts(document: str, language: str) -> list[str]:
    return [fence.text for fence in fences(document) if fence.language == language]


def code_of(document: str) -> str:
    """Return everything that is set as code: spans and blocks."""
    blocks = [fence.text for fence in fences(document)]
    prose = re.sub(r"^ *```.*?^ *```$", "", document, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", prose)])


def table(document: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is ``first``."""
    after = document.split(f"\n| {first} |", 1)[1].splitlines()[2:]
    rows = []
    for line in after:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def example_plugin() -> Any:
    spec = spec_from_file_location("example", EXAMPLE / "mlxserve_shortest_first.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ShortestFirst


def section_of(name: str) -> Section | None:
    options = options_class(INSTALLED.load(name))
    return Section(name, options) if options else None


SECTIONS = [*CORE, *filter(None, (section_of(name) for name in PLUGINS))]
EXAMPLES_OPTIONS = options_class(example_plugin())
assert EXAMPLES_OPTIONS is not None
ALL_SECTIONS = [*SECTIONS, Section("fcfs", EXAMPLES_OPTIONS)]
FLAGS = RESERVED.union(*(section.flags for section in ALL_SECTIONS))
VARIABLES = {
    name
    for section in ALL_SECTIONS
    for setting in section.settings.values()
    for name in setting.variables
}


def command_lines(document: str) -> Iterator[list[str]]:
    """Yield the words after each ``mlxserve`` in shell blocks."""
    for block in texts(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == PROJECT:
                    yield words[1:]


EVERY_COMMAND = [words for text in DOCUMENTS.values() for words in command_lines(text)]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < LONGEST_README


def test_readme_leads_with_two_commands_and_ci_runs_the_second() -> None:
    first, second = texts(README, "bash")[:2]
    assert first.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[cpu]' && "
        ".venv/bin/mlxserve run --preset demo"
    )
    assert f"({second.strip()})" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flag_exists(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code_of(DOCUMENTS[name])))
    others = {"--group", "--family"} if name == "CONTRIBUTING.md" else set()
    assert named - FLAGS - others == set()
    assert named & FLAGS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_exists(name: str) -> None:
    named = set(re.findall(r"MLXSERVE_[A-Z_]+", DOCUMENTS[name]))
    of_tests = {
        variable
        for path in Path(__file__).parent.rglob("test_*.py")
        for variable in re.findall(
            r'environ\.get\("(MLXSERVE_TEST_[A-Z]+)"', path.read_text("utf-8")
        )
    }
    assert named <= VARIABLES | of_tests | {TRACE}


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_every_command_line_is_understood(words: list[str], tmp_path: Path) -> None:
    resolved, _ = resolve([], {}, INSTALLED)
    added = {c.name for several in resolved.plugins.hook.commands(host=None) for c in several}
    two = " ".join(words[:2])
    command, *rest = [two, *words[2:]] if two in added else words
    assert command in OWN_COMMANDS | added
    if command in OWN_COMMANDS and "--shortest-first-aging" not in rest:
        (tmp_path / "my.toml").write_text(texts(README, "toml")[0])
        resolve([w.replace("my.toml", str(tmp_path / "my.toml")) for w in rest], {}, INSTALLED)


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
    cells = [cell for row in table(README, "Endpoint") for cell in row[0].split(", ")]
    assert {tuple(cell.strip("`").split()) for cell in cells} == served
    assert len(cells) == len(served)


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


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", DOCUMENTS[name])
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []
    assert local


def test_changelog_has_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {PYPROJECT['project']['version']} " in changes
