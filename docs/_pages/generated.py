"""Pages that are made from the code: one for each family of hooks, one for each plugin.

A hook of mkdocs. What a page says of an option is what ``mlxserve plugins --json`` says, and so
``--help``; what it says of a hook is its specification's docstring, rendered by mkdocstrings; an
example is what ``mlxserve new-plugin`` writes.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from inspect import getdoc
from string import Template
from types import ModuleType
from typing import Any, Final, cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mlxserve.loading import SPECS, installed
from mlxserve_hookspecs import PROJECT
from mlxserve_plugins.author.writing import SPLIT, families

HOOKS: Final = "hooks"
PLUGINS: Final = "plugins"
KIND: Final = re.compile(r"\*\*(Ask|Tell|Gather)\.\*\*")
SAMPLE: Final = {"name": "mine", "plugin": "Mine", "module": "mlxserve_mine", "point": "mine"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages where the navigation says ``hooks/`` and ``plugins/``."""
    listed = {
        f"{HOOKS}/": [f"{HOOKS}/index.md", *(f"{HOOKS}/{name(spec)}.md" for spec in SPECS)],
        f"{PLUGINS}/": [f"{PLUGINS}/index.md", *(f"{PLUGINS}/{r['name']}.md" for r in rows())],
    }
    config.nav = _listed(config.nav, listed)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Yield each page's path and its Markdown."""
    yield f"{HOOKS}/index.md", hooks_index()
    yield f"{PLUGINS}/index.md", plugins_index()
    for spec in SPECS:
        yield f"{HOOKS}/{name(spec)}.md", family_page(spec)
    for row in rows():
        yield f"{PLUGINS}/{row['name']}.md", plugin_page(row)


@cache
def rows() -> Sequence[Mapping[str, Any]]:
    """Return what ``mlxserve plugins --json`` says of the built-ins."""
    command = [sys.executable, "-m", PROJECT, "plugins", "--json"]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [row for row in json.loads(told) if row["distribution"] == PROJECT]


def name(spec: ModuleType) -> str:
    """Return a family's name."""
    return spec.__name__.rpartition(".")[2]


def hooks_of(spec: ModuleType) -> dict[str, str]:
    """Return the docstrings of a family's hooks, by name."""
    return {
        hook: getdoc(function) or ""
        for hook, function in vars(spec).items()
        if hasattr(function, f"{PROJECT}_spec")
    }


def hooks_index() -> str:
    """Return the page over the families: CONTRIBUTING's section, whose table a test checks."""
    links = "\n".join(
        f"- [{name(spec)}]({name(spec)}.md): {first_line(spec.__doc__)}" for spec in SPECS
    )
    return (
        "# Hooks\n\nOne page for each family, with what its hooks promise, an example, and the "
        f"built-ins that use it.\n\n{links}\n\n"
        "[How hooks are called](../../CONTRIBUTING.md#hooks)\n"
    )


def family_page(spec: ModuleType) -> str:
    """Return the page of a family."""
    return "\n\n".join(
        (
            f"# {name(spec).capitalize()}",
            spec.__doc__ or "",
            _table(("Hook", "Kind", "What it does", "Built-ins that use it"), _hook_rows(spec)),
            "## Example",
            *_examples(spec),
            "## The contract",
            f"::: {spec.__name__}",
        )
    )


def _hook_rows(spec: ModuleType) -> Iterator[Sequence[str]]:
    for hook, doc in hooks_of(spec).items():
        users = [row["name"] for row in rows() if hook in row["hooks"]]
        links = ", ".join(f"[{user}](../{PLUGINS}/{user}.md)" for user in users)
        kind = "".join(KIND.findall(doc))
        yield (f"[`{hook}`][{spec.__name__}.{hook}]", kind, first_line(doc), links or "none")


def _examples(spec: ModuleType) -> list[str]:
    """Return the packages that ``mlxserve new-plugin`` writes with a hook of this family."""
    found = []
    for family, text in families().items():
        body = Template(text).substitute(SAMPLE, family=family, package="mlxserve-mine")
        if any(f"    def {hook}(" in body for hook in hooks_of(spec)):
            plugin, _, tests = body.partition(SPLIT)
            found.append(
                f"`mlxserve new-plugin mine --family {family}` writes\n\n"
                f"```python\n{plugin.strip()}\n```\n\nand its tests, the contract of the family:"
                f"\n\n```python\n{tests.strip()}\n```"
            )
    return found


def plugins_index() -> str:
    """Return the page over the built-ins."""
    lines = [
        (
            f"[{row['name']}]({row['name']}.md)",
            row["about"],
            "on" if row["active"] else "off",
            ", ".join(f"`{o['flags'][0]}`" for o in row["options"]),
        )
        for row in rows()
    ]
    return (
        "# Built-in plugins\n\nEvery feature beyond the engine and sampling is one of these. A "
        "package or a file of yours that announces the same name takes its place "
        "([tutorial](../tutorial.md)).\n\n"
        + _table(("Plugin", "What it does", "By default", "Flags"), lines)
        + "\n"
    )


def plugin_page(row: Mapping[str, Any]) -> str:
    """Return the page of a plugin."""
    plugin = installed(cast(EntryPoints, entry_points())).load(row["name"])
    module = sys.modules[plugin.__module__]
    families = {hook: name(spec) for spec in SPECS for hook in hooks_of(spec)}
    hooks = ", ".join(
        f"[`{hook}`](../{HOOKS}/{families[hook]}.md#mlxserve_hookspecs.{families[hook]}.{hook})"
        for hook in row["hooks"]
    )
    switch = f"no:{row['name']}" if row["active"] else row["name"]
    turn = "takes it out" if row["active"] else "adds it"
    return "\n\n".join(
        (
            f"# {row['name']}",
            getdoc(plugin) or "",
            getdoc(module) or "",
            f"Runs by default: {'yes' if row['active'] else 'no'}; `--plugins {switch}` {turn}. "
            f"Hooks: {hooks}.",
            "## Options",
            _options(row),
        )
    )


def _options(row: Mapping[str, Any]) -> str:
    if not row["options"]:
        return "It has none."
    heads = ("Flag", "Default", "What it does", "Type", f"Key in `[{row['name']}]`", "Variable")
    return _table(
        heads,
        [
            (
                ", ".join(f"`{flag}`" for flag in option["flags"]),
                f"`{shown(option['default'])}`",
                option["help"],
                option["type"],
                f"`{option['name']}`",
                ", ".join(f"`{variable}`" for variable in option["variables"]),
            )
            for option in row["options"]
        ],
    )


def shown(default: object) -> str:
    """Return a default as TOML has it, and ``none`` where there is none."""
    return "none" if default in (None, "", [], ()) else json.dumps(default).strip('"')


def first_line(doc: str | None) -> str:
    """Return a docstring's first sentence."""
    return (doc or "").strip().partition("\n")[0]


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|---" * len(heads) + "|"
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" if line else rule for line in (heads, (), *cells))


def _listed(nav: Any, pages: Mapping[str, Sequence[str]]) -> Any:
    if isinstance(nav, list):
        return [_listed(entry, pages) for entry in nav]
    if isinstance(nav, dict):
        return {title: _listed(entry, pages) for title, entry in nav.items()}
    return list(pages.get(nav, ())) or nav
