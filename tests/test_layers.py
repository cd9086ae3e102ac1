"""The one rule of the house: core and plugins meet in the contract, nowhere else."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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
    "ngram", "draft_model", "ssd", "int8", "openai", "ring", "jaccl", "nccl", "prometheus",
    "fcfs", "sequence_cache", "prefix_cache", "kv_quant", "gguf", "pypi",
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
