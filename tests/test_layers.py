"""The one rule of the house: core and plugins meet in the contract, nowhere else."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "hookspecs": ("mlxserve", "mlxserve_plugins"),
    "core": ("mlxserve_plugins",),
    "plugins": ("mlxserve",),
}
HEAVY = {"mlx", "mlx_lm", "litestar", "uvicorn", "transformers", "numpy", "openai", "gguf"}
FEATURES = (
    "ngram", "n_gram", "draft_model", "ssd", "int8", "ring", "jaccl", "nccl", "distributed-mode",
    "openai", "anthropic", "ollama", "chat/completions", "response_format", "json_schema",
    "tool_calls", "function_call", "prometheus", "grafana", "redis", "valkey", "llguidance",
    "fcfs", "sequence_cache", "prefix_cache", "kv_quant", "gguf", "pypi", "dashboard",
    "spec_decode",
)  # fmt: skip
LONGEST_FILE = 400
LONGEST_FUNCTION = 50


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each file under ``folder`` with each module it imports."""
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=str(name), level=0):
                    yield str(path.relative_to(ROOT)), name
                case ast.Import(names=names):
                    yield from ((str(path.relative_to(ROOT)), alias.name) for alias in names)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_folder_stays_on_its_floor(folder: str) -> None:
    found = list(imports(folder))
    assert [hit for hit in found if hit[1].split(".")[0] in FORBIDDEN[folder]] == []
    assert any(name.startswith("mlxserve_hookspecs") for _, name in found)


@pytest.mark.parametrize("word", FEATURES)
def test_core_has_no_word_for_a_feature(word: str) -> None:
    pattern = re.compile(rf"(?<![a-z]){word.replace('_', '[-_ ]')}(?![a-z])", re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources("core")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert hits == []


def folders_used(tree: ast.AST) -> Iterator[str]:
    """Yield the folder or module of core that each import means, local ones too.

    What stands under ``TYPE_CHECKING`` is never run, and does not count.
    """
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ImportFrom(module="mlxserve", names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(name), level=0) if name.startswith("mlxserve."):
                yield name.split(".")[1]
            case ast.Import(names=names):
                parts = [alias.name.split(".") for alias in names]
                yield from (part[1] for part in parts if part[0] == "mlxserve" and part[1:])
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
        yield from folders_used(node)


def uses(core: Path) -> dict[str, set[str]]:
    """Return which folders of core each one imports; a module beside them counts as one."""
    graph: dict[str, set[str]] = {}
    for path in core.rglob("*.py"):
        mine = path.relative_to(core).with_suffix("").parts[0]
        graph.setdefault(mine, set()).update(
            set(folders_used(ast.parse(path.read_text()))) - {mine}
        )
    return graph


def test_no_folder_of_core_imports_one_that_imports_it() -> None:
    graph = uses(ROOT / "core" / "mlxserve")
    assert {"pool", "attention", "batch", "cache", "engine", "ranks", "serve", "cli"} <= set(graph)
    assert "pool" in graph["batch"]
    TopologicalSorter(graph).prepare()


def test_a_circle_of_folders_is_found_and_types_alone_make_none(tmp_path: Path) -> None:
    for name, text in {
        "batch": "def f():\n    from mlxserve.engine import loop\n",
        "engine": "from mlxserve import inbox\n",
        "inbox": "import mlxserve.batch.rows\n",
        "pool": "if TYPE_CHECKING:\n    from mlxserve.batch import rows\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert uses(tmp_path) == {
        "batch": {"engine"}, "engine": {"inbox"}, "inbox": {"batch"}, "pool": set(),
    }  # fmt: skip
    with pytest.raises(CycleError):
        TopologicalSorter(uses(tmp_path)).prepare()


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import mlxserve_hookspecs",
        "import mlxserve.cli",
        "import mlxserve.loading\nfrom importlib.metadata import entry_points\n"
        "[point.load() for point in entry_points(group='mlxserve')]",
    ],
    ids=["the contract", "the command line", "every plugin"],
)
def test_import_brings_nothing_heavy(statement: str) -> None:
    assert modules_after(statement) & HEAVY == set()


@pytest.mark.parametrize("folder", ["core", "hookspecs", "plugins"])
def test_files_and_functions_stay_short(folder: str) -> None:
    long = [str(p) for p in sources(folder) if len(p.read_text().splitlines()) > LONGEST_FILE]
    long += [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []
