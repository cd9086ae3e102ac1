"""From the words of a command line to plugins with their options."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlxserve.cli.selection import CORE, Selection, select
from mlxserve.cli.strays import refuse_strays
from mlxserve.door import PluginCrashError
from mlxserve.loading import Installed, register
from mlxserve.resolved import Resolved, SettingRow
from mlxserve.settings import build, check_keys
from mlxserve.tracing import VARIABLE, traced
from mlxserve_hookspecs import MlxserveError


def resolve(
    words: Sequence[str],
    variables: Mapping[str, str],
    installed: Installed,
    *,
    argv: Sequence[str] = (),
    lenient: bool = False,
    without: frozenset[str] = frozenset(),
) -> tuple[Resolved, Selection]:
    """Return the settings of a run, its plugins built and registered, and what led there.

    Args:
        words: The command line after the command's name.
        variables: The environment.
        installed: What is installed.
        argv: The whole command line, handed on.
        lenient: Leave words that nobody knows to the caller instead of refusing them.
        without: Flags that a command keeps for itself.

    Raises:
        MlxserveError: A user's mistake, or a broken plugin.
    """
    selection = select(words, variables, installed, without)
    installed = selection.installed
    for error in selection.broken.values():
        raise error
    refuse_strays(selection, installed, lenient=lenient)
    for section in selection.active:
        check_keys(section, selection.sources.files)
    built = {section.name: build(section, selection.sources) for section in selection.active}
    plugins = {
        name: _make(name, installed, built[name][0] if name in built else None)
        for name in selection.choice.names
    }
    rows = tuple(
        SettingRow(section, name, value, origin)
        for section, (_, settings) in built.items()
        for name, (value, origin) in settings.items()
    )
    core = {section.name: built[section.name][0] for section in CORE}
    if variables.get(VARIABLE):
        plugins = traced(plugins)
    manager = register(plugins, installed.distributions)
    resolved = Resolved(
        plugins=manager, names=selection.choice.names, rows=rows, argv=tuple(argv), **core
    )
    return resolved, selection


def _make(name: str, installed: Installed, options: Any) -> object:
    plugin = installed.load(name)
    if not isinstance(plugin, type):
        return plugin
    try:
        return plugin() if options is None else plugin(options=options)
    except MlxserveError:
        raise
    except Exception as error:
        raise PluginCrashError(
            f"plugin {name!r} ({installed.distributions[name]}) cannot be made: "
            f"{type(error).__name__}: {error}"
        ) from error
