"""Plugins that are files: nobody has to install what is tried out."""

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from attrs import evolve, frozen

from mlxserve.choice import Word
from mlxserve.loading import Installed
from mlxserve_hookspecs import PROJECT, PluginError, SettingError

SUFFIX: Final = ".py"


@frozen
class FileOrigin:
    """Stands for the distribution of a plugin that has none.

    Attributes:
        name: The file's path.
        version: Nothing.
    """

    name: str
    version: str = ""


class PluginFile(EntryPoint):
    """An entry point that leads to the one class with hooks in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(plugin_name(path), str(path), PROJECT)
        vars(self).update(dist=FileOrigin(str(path)))

    def load(self) -> Any:
        """Run the file, once, and return its plugin.

        Raises:
            PluginError: It has no class with hooks, or several.
        """
        module = _module(Path(self.value))
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and _has_hooks(value)
        ]
        if len(found) != 1:
            names = ", ".join(one.__name__ for one in found) or "none"
            raise PluginError(f"a plugin's file has one class with hooks; this one has {names}")
        return found[0]


def plugin_name(path: Path) -> str:
    """Return the name of the plugin in ``path``: ``my_policy.py`` is ``my-policy``."""
    return path.stem.replace("_", "-").lower()


def with_files(installed: Installed, words: Iterable[Word]) -> tuple[Installed, list[Word]]:
    """Return what is installed and the files that ``words`` name, and those words by name.

    A file stands in for an installed plugin of its name.

    Raises:
        SettingError: There is no such file.
        PluginError: Two files have one name.
    """
    points: dict[str, EntryPoint] = {}
    named = []
    for word in words:
        if not word.name.endswith(SUFFIX):
            named.append(word)
            continue
        path = Path(word.name).expanduser().resolve()
        if not path.is_file():
            raise SettingError(f"there is no plugin at {path} (set by {word.origin})")
        point = PluginFile(path)
        if points.setdefault(point.name, point).value != point.value:
            raise PluginError(
                f"{points[point.name].value} and {path} are both plugin {point.name!r}; rename one"
            )
        named.append(evolve(word, name=point.name))
    if not points:
        return installed, named
    replaced = installed.replaced | (points.keys() & installed.plugins.keys())
    return evolve(installed, plugins={**installed.plugins, **points}, replaced=replaced), named


def files_in(folder: str, origin: str) -> list[str]:
    """Return the files of a folder that may be plugins.

    Raises:
        SettingError: There is no such folder.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SettingError(f"there is no folder of plugins at {path} (set by {origin})")
    return [str(file) for file in sorted(path.glob(f"[!_.]*{SUFFIX}"))]


def _module(path: Path) -> ModuleType:
    name = f"mlxserve_plugin_file_{path.stem}_{abs(hash(str(path)))}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"{path} is no Python file")
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _has_hooks(plugin: type) -> bool:
    return any(hasattr(getattr(plugin, name, None), f"{PROJECT}_impl") for name in dir(plugin))
