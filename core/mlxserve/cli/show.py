"""Print which plugins there are, and what is set where."""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mlxserve.cli.selection import Selection
from mlxserve.loading import SPECS, Installed, origin
from mlxserve.resolved import Resolved
from mlxserve.settings import Section, Setting, options_class
from mlxserve.values import choices, describe
from mlxserve_hookspecs import PROJECT, PluginError

HOOKS = tuple(
    name
    for spec in SPECS
    for name, value in vars(spec).items()
    if hasattr(value, f"{PROJECT}_spec")
)
"""Every hook there is."""


def plugin_rows(selection: Selection, installed: Installed) -> list[dict[str, Any]]:
    """Return what is known of each installed plugin, the active ones first, as they are asked."""
    idle = sorted(installed.plugins.keys() - set(selection.choice.names))
    return [
        _plugin_row(name, installed, active=name in selection.choice.names)
        for name in (*selection.choice.names, *idle)
    ]


def plugins_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table."""
    header = ("plugin", "", "distribution", "hooks", "options")
    return _table([header, *(_plugin_line(row) for row in rows)])


def config_text(resolved: Resolved) -> str:
    """Return every value and where it came from, by section."""
    lines: list[Sequence[str]] = [("setting", "value", "set by")]
    lines += [(f"{row.section}.{row.name}", str(row.value), row.origin) for row in resolved.rows]
    return f"plugins: {', '.join(resolved.names)}\n\n{_table(lines)}"


def config_json(resolved: Resolved) -> str:
    """Return the same as JSON."""
    rows = [row._asdict() for row in resolved.rows]
    return to_json({"plugins": list(resolved.names), "settings": rows})


def to_json(value: Any) -> str:
    """Return indented JSON; a path is its text."""
    return json.dumps(value, indent=2, default=str)


def _plugin_row(name: str, installed: Installed, *, active: bool) -> dict[str, Any]:
    point = installed.plugins[name]
    row: dict[str, Any] = {
        "name": name,
        "distribution": origin(point),
        "version": point.dist.version if point.dist else None,
        "active": active,
        "replaces_builtin": name in installed.replaced,
        "about": "",
        "hooks": [],
        "options": [],
        "error": None,
    }
    try:
        plugin = installed.load(name)
        options = options_class(plugin)
    except PluginError as error:
        return row | {"error": str(error)}
    return row | {
        "about": (plugin.__doc__ or "").strip().partition("\n")[0],
        "hooks": [hook for hook in HOOKS if _implements(plugin, hook)],
        "options": _options(Section(name, options)) if options else [],
    }


def _implements(plugin: Any, hook: str) -> bool:
    return hasattr(getattr(plugin, hook, None), f"{PROJECT}_impl")


def _options(section: Section) -> list[dict[str, Any]]:
    return [_option(setting) for setting in section.settings.values()]


def _option(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "flags": list(setting.flags),
        "variables": list(setting.variables),
        "type": describe(setting.field.type),
        "choices": list(choices(setting.field.type)),
        "default": setting.shown(setting.default),
        "help": setting.option.help,
    }


STATES: Mapping[bool, str] = MappingProxyType({True: "active", False: ""})


def _plugin_line(row: Mapping[str, Any]) -> Sequence[str]:
    state = "broken" if row["error"] else STATES[row["active"]]
    source = f"{row['distribution']} {row['version'] or ''}".strip()
    if row["replaces_builtin"]:
        source += " (replaces the built-in)"
    options = ", ".join(option["flags"][0] for option in row["options"])
    return (row["name"], state, source, ", ".join(row["hooks"]), row["error"] or options)


def _table(lines: Iterable[Sequence[str]]) -> str:
    rows = list(lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join((*map(str.ljust, row, widths), row[-1])).rstrip() for row in rows)
