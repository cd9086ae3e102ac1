"""Find, import, register and check the plugins of one run."""

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, EntryPoints
from types import MappingProxyType, ModuleType
from typing import Any, Final

from attrs import field, frozen
from pluggy import PluginManager, PluginValidationError

from mlxserve.hooks import Manager, owner
from mlxserve_hookspecs import (
    PROJECT,
    HookChangeWarning,
    PluginError,
    admission,
    caching,
    commands,
    distribution,
    generation,
    lifecycle,
    models,
    quantization,
    scheduling,
    serving,
    speculation,
)

SPECS: Final[tuple[ModuleType, ...]] = (
    admission,
    caching,
    commands,
    distribution,
    generation,
    lifecycle,
    models,
    quantization,
    scheduling,
    serving,
    speculation,
)

SETS_GROUP: Final = f"{PROJECT}.sets"
PRESETS_GROUP: Final = f"{PROJECT}.presets"
DEFAULT_SET: Final = "default"
PLUGIN: Final = "plugin"


def origin(point: EntryPoint) -> str:
    """Return the distribution that an entry point was installed with."""
    return point.dist.name if point.dist else "an unnamed distribution"


def is_builtin(point: EntryPoint) -> bool:
    """Return whether an entry point came with the server itself."""
    return origin(point) == PROJECT


def catalogue(points: Iterable[EntryPoint], what: str = PLUGIN) -> dict[str, EntryPoint]:
    """Return entry points by name, without importing any; a stranger's beats a built-in.

    Raises:
        PluginError: Two strangers announce the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in points:
        rival = found.get(point.name)
        if rival is None or is_builtin(rival):
            found[point.name] = point
        elif not is_builtin(point) and point != rival:
            raise PluginError(
                f"{origin(rival)} and {origin(point)} both provide a {what} named "
                f"{point.name!r}; uninstall one of them"
            )
    return found


@frozen
class Installed:
    """What is installed: plugins by name, the default set, folders of presets.

    Attributes:
        plugins: The entry point that each name leads to.
        replaced: Names of built-ins that a stranger's plugin stands in for.
        default: What runs when nobody says otherwise, in the order of asking.
        presets: Entry points of packages that hold presets.
    """

    plugins: Mapping[str, EntryPoint]
    replaced: frozenset[str] = frozenset()
    default: tuple[str, ...] = ()
    presets: tuple[EntryPoint, ...] = ()
    _imported: dict[str, Any] = field(factory=dict, init=False, repr=False, eq=False)

    def load(self, name: str) -> Any:
        """Import one plugin; whatever goes wrong is laid at its own door.

        Raises:
            PluginError: Nobody provides ``name``, or its module cannot be imported.
        """
        if name not in self._imported:
            self._imported[name] = _import(self.known(name), PLUGIN)
        return self._imported[name]

    def known(self, name: str) -> EntryPoint:
        """Return the entry point of ``name``.

        Raises:
            PluginError: Nobody provides it.
        """
        if name in self.plugins:
            return self.plugins[name]
        near = get_close_matches(name, self.plugins)
        hint = f"did you mean {' or '.join(near)}?" if near else "`mlxserve plugins` lists them"
        raise PluginError(f"no plugin named {name!r} is installed; {hint}")

    @property
    def distributions(self) -> dict[str, str]:
        """The distribution of every plugin, with its version."""
        return {
            name: f"{origin(point)} {point.dist.version}" if point.dist else origin(point)
            for name, point in self.plugins.items()
        }


def installed(points: EntryPoints) -> Installed:
    """Sort the entry points of an environment; imports the default set's list of names only."""
    announced = tuple(points.select(group=PROJECT))
    plugins = catalogue(announced)
    built_in = {point.name for point in announced if is_builtin(point)}
    sets = catalogue(points.select(group=SETS_GROUP), "plugin set")
    default = _import(sets[DEFAULT_SET], "plugin set") if DEFAULT_SET in sets else ()
    return Installed(
        plugins,
        frozenset(name for name in built_in if not is_builtin(plugins[name])),
        tuple(default),
        tuple(points.select(group=PRESETS_GROUP)),
    )


def register(
    plugins: Mapping[str, object],
    distributions: Mapping[str, str] = MappingProxyType({}),
    specs: Iterable[ModuleType | type] = SPECS,
) -> PluginManager:
    """Return a manager of plugin objects in which the first one named is asked first.

    A plugin that implements a hook whose contract has changed is named in the log.

    Raises:
        PluginError: A plugin implements a hook that is unknown, or with unknown arguments, or
            wraps one, or needs a plugin that does not run.
    """
    manager = Manager(distributions)
    for spec in specs:
        manager.add_hookspecs(spec)
    for name in reversed(list(plugins)):  # pluggy calls the last one registered first
        try:
            with warnings.catch_warnings(record=True) as changes:
                warnings.simplefilter("always", HookChangeWarning)
                manager.register(plugins[name], name)
            manager.check_pending()
            _refuse_wrappers(manager, name)
            for change in changes:
                _log_change(owner(manager, name), str(change.message))
        except PluginValidationError as error:
            reason = " ".join(str(error).split())
            raise PluginError(f"{owner(manager, name)} does not fit: {reason}") from error
    for name, plugin in plugins.items():
        if missing := [n for n in getattr(plugin, "requires", ()) if n not in plugins]:
            raise PluginError(
                f"{owner(manager, name)} needs {_listed(missing)}, which does not run; add it, or "
                f"do without: --plugins no:{name}"
            )
    return manager


def _log_change(culprit: str, words: str) -> None:
    import structlog  # noqa: PLC0415 - not worth its import time when nothing has changed

    structlog.get_logger("mlxserve.plugins").warning("hook changed", culprit=culprit, change=words)


def _refuse_wrappers(manager: PluginManager, name: str) -> None:
    """Refuse a wrapper around a hook: each plugin is called by itself, inside of nothing."""
    for caller in manager.get_hookcallers(manager.get_plugin(name)) or ():
        mine = [impl for impl in caller.get_hookimpls() if impl.plugin_name == name]
        if any(impl.wrapper or impl.hookwrapper for impl in mine):
            raise PluginError(f"{owner(manager, name)} wraps {caller.name}: answer it instead")


def _import(point: EntryPoint, what: str) -> Any:
    try:
        return point.load()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"; mend it, or do without: --plugins no:{point.name}" if what == PLUGIN else ""
        raise PluginError(
            f"{what} {point.name!r} of {origin(point)} cannot be imported: {reason}{remedy}"
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
