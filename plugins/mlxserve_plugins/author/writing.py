"""``mlxserve new-plugin``: write a package of a family, ready to be installed and tested."""

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from mlxserve_hookspecs import SettingError

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SPLIT: Final = "# ---- tests ----\n"
HERE: Final = "mlxserve_plugins.author"
PLACES: Final = {
    "pyproject.txt": "pyproject.toml",
    "readme.txt": "README.md",
    "workflow.txt": ".github/workflows/test.yml",
}
"""Where each file of every package goes."""


def families() -> dict[str, str]:
    """Return the templates by family: the plugin's module, then its tests."""
    folder = files(HERE) / "families"
    return {
        file.name.removesuffix(".txt"): file.read_text("utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".txt")
    }


def add_arguments(parser: ArgumentParser) -> None:
    """Add what ``new-plugin`` takes."""
    parser.add_argument("name", help="the plugin's name: lower case, with hyphens")
    parser.add_argument("--family", required=True, choices=[*families()], help="what it does")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write it in")
    parser.add_argument("--replaces", default="", help="a built-in in whose place it is to run")


def run(arguments: Namespace) -> int:
    """Write the package and say what to do next."""
    folder = write(arguments.name, arguments.family, arguments.out, arguments.replaces)
    point = arguments.replaces or arguments.name
    sys.stdout.write(
        f"{folder} is written. Next:\n"
        f"  pip install -e '{folder}[test]'\n"
        f"  pytest {folder}\n"
        f"  mlxserve run --preset demo --plugins {point}\n"
    )
    return 0


def write(name: str, family: str, out: Path, replaces: str = "") -> Path:
    """Write the package; return its folder.

    Raises:
        SettingError: ``name`` cannot be a plugin's, or its folder is there already.
    """
    if not NAME.fullmatch(name):
        raise SettingError(f"a plugin's name is lower case with hyphens, not {name!r}")
    folder = out / f"mlxserve-{name}"
    if folder.exists():
        raise SettingError(f"{folder} is there already; choose another name, or --out")
    words = {
        "name": name,
        "point": replaces or name,
        "package": f"mlxserve-{name}",
        "module": f"mlxserve_{name.replace('-', '_')}",
        "plugin": "".join(part.title() for part in name.split("-")),
        "family": family,
    }
    body, _, tests = families()[family].partition(SPLIT)
    texts = {
        f"{words['module']}.py": body,
        f"tests/test_{words['module']}.py": tests.lstrip(),
        **{place: _common(template) for template, place in PLACES.items()},
    }
    for path, text in texts.items():
        _write(folder / path, text, words)
    return folder


def _common(template: str) -> str:
    return (files(HERE) / "package" / template).read_text("utf-8")


def _write(path: Path, text: str, words: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(words), "utf-8")
