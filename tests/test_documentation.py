"""Every code block of every document is what it says: it parses, it runs, or it is quoted."""

import ast
import importlib
import json
import re
import sys
import tomllib
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from mlxserve.cli.parser import Parser
from mlxserve.cli.program import Cli
from mlxserve.cli.resolution import resolve
from mlxserve.engine.service import EngineService
from mlxserve.loading import SPECS, Installed
from mlxserve.serve.app import build_app
from mlxserve.settings import Section
from mlxserve.tracing import VARIABLE as TRACE
from mlxserve_hookspecs import PROJECT, Command, EngineStatus
from mlxserve_plugins.author.writing import write
from mlxserve_plugins.metrics.collectors import STEMS
from mlxserve_plugins.metrics.instruments import Instruments

from .documents import (
    DOCUMENTS,
    EXAMPLES,
    FLAGS,
    INSTALLED,
    PLUGINS,
    README,
    ROOT,
    SECTIONS,
    Fence,
    example_points,
    fences,
    links,
    section_of,
    shell_lines,
    spans,
    table,
    texts,
)

LANGUAGES = {"bash", "json", "python", "text", "toml", "yaml"}
PROGRAMS = {
    *("curl", "kubectl", "mypy", "pip", "pytest", "python", "python3", "ruff", "sh", "tox"),
    *("twine", "valkey-server", PROJECT),
}
FLAGS_OF_OTHERS = {"--auth-type", "--build-arg", "--decode-concurrency", "--group"}
GENERATED = {f"hooks/{spec.__name__.rpartition('.')[2]}.md" for spec in SPECS} | {
    *(f"plugins/{name}.md" for name in PLUGINS),
    *("hooks/index.md", "plugins/index.md"),
}
"""Pages that only the built documentation has."""

TUTORIAL = DOCUMENTS["docs/tutorial.md"]
BLOCKS = [(name, fence) for name, text in DOCUMENTS.items() for fence in fences(text)]


def blocks(language: str, *, quoted: bool | None = None) -> list[Any]:
    """Return the blocks in a language as parameters; ``quoted``: those with a title, or not."""
    return [
        pytest.param(name, fence, id=f"{name}: {fence.text.strip().splitlines()[0]}")
        for name, fence in BLOCKS
        if fence.language == language and quoted in (None, bool(fence.title))
    ]


def commands(program: str) -> list[Any]:
    """Return every call of a program in a shell block as a parameter."""
    return [
        pytest.param(name, words[1:], id=f"{name}: {' '.join(words)}")
        for name, fence in BLOCKS
        if fence.language == "bash"
        for words in shell_lines(fence.text)
        if Path(words[0]).name == program
    ]


def tutorials_package(folder: Path) -> Path:
    """Write the package of the tutorial, its two files as they are printed there."""
    package = write("deadline-first", "policy", folder)
    for fence in fences(TUTORIAL):
        if fence.title:
            assert (package / fence.title).exists()
            (package / fence.title).write_text(fence.text)
    return package


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the files that command lines name, where modules are importable."""
    folder = tmp_path_factory.mktemp("reader")
    package = tutorials_package(folder)
    (folder / "my.toml").write_text(texts(README, "toml")[0])
    module = (package / "mlxserve_deadline_first.py").read_text()
    (folder / "my_policy.py").write_text(module)
    (folder / "plugins").mkdir()
    (folder / "plugins" / "another_policy.py").write_text(module)
    before = sys.path[:]
    sys.path[:0] = [str(package), *(str(path.parent) for path in EXAMPLES.glob("*/pyproject.toml"))]
    yield folder
    sys.path[:] = before


@cache
def world(*, replaced: bool = False) -> Installed:
    """Return what a reader has installed: the examples, if ``replaced`` in place of built-ins."""
    examples = example_points()
    announced = tomllib.loads(texts(TUTORIAL, "toml")[0])
    tutorial = announced["project"]["entry-points"][PROJECT]
    points = {name: EntryPoint(name, to, PROJECT) for name, to in tutorial.items()}
    points |= {name: point for name, point in examples.items() if replaced or name not in PLUGINS}
    return Installed({**PLUGINS, **points}, default=INSTALLED.default, presets=INSTALLED.presets)


@cache
def strangers() -> list[Section]:
    """Return the options of the examples and of the tutorial's plugin."""
    named = example_points().keys() | {"deadline-first"}
    return [found for name in named if (found := section_of(name, world(replaced=True)))]


def test_every_block_has_a_language_that_something_checks() -> None:
    assert {fence.language for _, fence in BLOCKS} <= LANGUAGES
    for name, text in DOCUMENTS.items():
        assert not re.findall(rf"^ {{4}}(?:{PROJECT}|pip|curl) .*$", text, re.MULTILINE), name
    assert len(BLOCKS) > 40


@pytest.mark.parametrize(("name", "fence"), blocks("bash"))
def test_shell_calls_known_programs_on_files_that_are_there(
    name: str, fence: Fence, place: Path
) -> None:
    for words in shell_lines(fence.text):
        assert words[0] == "." or Path(words[0]).name in PROGRAMS, words
        if Path(words[0]).name in ("sh", "kubectl", "pip", "pytest"):
            files = {w.partition("[")[0] for w in words[1:] if re.match(r"[\w.-]+/[\w./-]+$", w)}
            files = {file for file in files if "/dist/" not in file}  # made by the line before
            near = [(ROOT / name).parent, ROOT, place]
            assert [f for f in files if not any((n / f).exists() for n in near)] == []
        if words[:2] == ["python", "-m"] and words[2].startswith("tests."):
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists()


@pytest.mark.parametrize(("name", "words"), commands(PROJECT))
def test_the_programs_own_parser_takes_every_command_line(
    name: str, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    command_of = Cli._command
    monkeypatch.setattr(Cli, "_serve", lambda it, flags: bool(it._resolved(flags)) - 1)

    def harmless(it: Cli, named: str, resolved: Any) -> tuple[Command, Any]:
        command, parser = command_of(it, named, resolved)
        return attrs.evolve(command, run=lambda _: 0), parser

    monkeypatch.setattr(Cli, "_command", harmless)
    flags = {flag for section in strangers() if section.name in PLUGINS for flag in section.flags}
    installed = world(replaced=bool(flags.intersection(words)))
    assert Cli(installed, {}, tuple(words)).run() == 0


@cache
def served() -> frozenset[tuple[str, str]]:
    """Return the method and the pattern of each route, of all plugins and examples."""
    installed = world()
    resolved, _ = resolve(["--plugins", ",".join(installed.plugins)], {}, installed)
    app = build_app(resolved, EngineService(resolved))
    return frozenset(
        (method, re.sub(r"\{.*?\}", "[^/]+", route.path))
        for route in app.routes
        for method in getattr(route, "methods", ())
    )


@pytest.mark.parametrize(("name", "words"), commands("curl"))
def test_curl_asks_for_a_route_and_sends_json(name: str, words: list[str], place: Path) -> None:
    (url,) = (word for word in words if "://" in word)
    sent = [words[at + 1] for at, word in enumerate(words) if word in ("-d", "--data")]
    method = "POST" if sent else "GET"
    assert url.startswith("http://127.0.0.1:8000/")
    path = url.removeprefix("http://127.0.0.1:8000")
    assert any(m == method and re.fullmatch(pattern, path) for m, pattern in served())
    assert all(isinstance(json.loads(body), dict) for body in sent)


@pytest.mark.parametrize(("name", "fence"), blocks("python", quoted=False))
def test_python_compiles_and_what_it_imports_is_there(name: str, fence: Fence) -> None:
    tree = ast.parse(fence.text)
    compile(tree, name, "exec", dont_inherit=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                importlib.import_module(one.name)
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []


@pytest.mark.parametrize(("name", "fence"), blocks("python", quoted=True))
def test_a_block_with_a_title_is_that_file(name: str, fence: Fence) -> None:
    if name == "docs/tutorial.md":
        return  # it is written to that file of a package, whose tests run below
    source = [line.strip() for line in (ROOT / fence.title).read_text().splitlines()]
    assert "\n".join(map(str.strip, fence.text.strip().splitlines())) in "\n".join(source)


def test_the_tutorials_plugin_passes_its_tests(place: Path) -> None:
    package = str(place / "mlxserve-deadline-first")
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--import-mode=importlib")
    outcomes: list[str] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.failed:
                outcomes.append(report.outcome)

    # The clauses with an engine are run of every family's package by tox's `families`.
    assert pytest.main([*quiet, "-k", "not engine", package], plugins=[Watch()]) == 0
    assert set(outcomes) == {"passed"}
    assert len(outcomes) > 5


def test_the_tutorials_entry_point_is_the_one_that_is_written(place: Path) -> None:
    written = (place / "mlxserve-deadline-first" / "pyproject.toml").read_text()
    for text in texts(TUTORIAL, "toml"):
        assert text in written


@pytest.mark.parametrize(("name", "fence"), [*blocks("toml"), *blocks("json"), *blocks("yaml")])
def test_data_parse(name: str, fence: Fence) -> None:
    read: Any = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}
    assert read[fence.language](fence.text)


def flags_of(parser: ArgumentParser) -> Iterator[str]:
    """Yield the flags of a parser and of those below it."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, _SubParsersAction):
            for below in action.choices.values():
                yield from flags_of(below)


@cache
def flags_of_commands() -> frozenset[str]:
    """Return the flags of what plugins add to the command line."""
    resolved, _ = resolve((), {}, INSTALLED)
    parser = Parser(PROJECT)
    for command in Cli(INSTALLED, {}, ())._commands(resolved):
        command.add_arguments(one := Parser(command.name, add_help=False))
        parser._actions += one._actions
    return frozenset(flags_of(parser)) | {"--trace"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flag_in_prose_exists(name: str, place: Path) -> None:
    named = {
        flag
        for span in spans(DOCUMENTS[name])
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
    }
    known = FLAGS.union(flags_of_commands(), *(section.flags for section in strangers()))
    assert named - known - FLAGS_OF_OTHERS == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_exists(name: str, place: Path) -> None:
    settings = [one for its in (*SECTIONS, *strangers()) for one in its.settings.values()]
    known = {variable for setting in settings for variable in setting.variables}
    of_tests = {
        variable
        for path in Path(__file__).parent.rglob("test_*.py")
        for variable in re.findall(
            r'environ\.get\("(MLXSERVE_TEST_[A-Z]+)"', path.read_text("utf-8")
        )
    }
    named = set(re.findall(r"MLXSERVE_[A-Z_]+[A-Z]", DOCUMENTS[name]))
    assert named <= known | of_tests | {TRACE}


@pytest.mark.parametrize("name", ["README.md", "docs/operations.md"])
def test_every_metric_exists(name: str) -> None:
    registry = Instruments(lambda: EngineStatus(ready=True), dict).registry
    known = {metric.name for metric in registry.collect()}
    known |= {f"{PROJECT}_{stem}" for stem in STEMS.values()}
    told = re.findall(rf"`({PROJECT}_[a-z_]+)[`{{]", DOCUMENTS[name])
    named = {metric.removesuffix("_total") for metric in told if "hookspecs" not in metric}
    assert named - known == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_to_tests_that_exist(name: str) -> None:
    for link in links(DOCUMENTS[name]):
        path, _, fragment = link.partition("#")
        if name.startswith("docs/") and path in GENERATED:
            continue
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), link
        if fragment and path.endswith(".py"):
            body = ast.parse(file.read_text("utf-8")).body
            functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
            assert fragment in functions, link


def test_each_pair_of_features_has_one_verdict_and_a_test_behind_each_yes() -> None:
    document = DOCUMENTS["docs/composition.md"]
    lines = [line for line in document.splitlines() if line.startswith("| **")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    features = [row[0].strip("*") for row in rows]
    leads = dict(re.findall(r"^\[([^\]]+)\]: (\S+\.py#test_\w+)$", document, re.MULTILINE))
    assert features == [row[0] for row in table(document, "Word")]
    assert len(features) > 10
    for at, row in enumerate(rows):
        assert row[at + 1] == ""
        for other, cell in enumerate(row[1:]):
            assert cell == rows[other][at + 1], (features[at], features[other])
            verdict = re.fullmatch(r"\[yes\]\[([\w-]+)\]", cell)
            assert at == other or cell == "untested" or (verdict and verdict[1] in leads)
