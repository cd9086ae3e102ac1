"""Find and read TOML files of settings: built-in presets, a stranger's, the user's own."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from mlxserve.loading import is_builtin, origin
from mlxserve.settings import FILE, PRESET, SettingsFile, near
from mlxserve_hookspecs import PluginError, SettingError

SUFFIX: Final = ".toml"
LABELS: Final = {PRESET: "preset", FILE: "config"}


def known_presets(points: Iterable[EntryPoint]) -> dict[str, Traversable]:
    """Return the presets that installed packages hold, by name; a stranger's beats a built-in.

    Raises:
        PluginError: Two strangers have a preset of the same name, or a package is broken.
    """
    found: dict[str, tuple[EntryPoint, Traversable]] = {}
    for point in sorted(points, key=is_builtin, reverse=True):
        for file in _toml_files(point):
            name = file.name.removesuffix(SUFFIX)
            rival = found.get(name)
            if rival and not is_builtin(rival[0]):
                raise PluginError(
                    f"{origin(rival[0])} and {origin(point)} both provide a preset named {name!r}"
                )
            found[name] = (point, file)
    return {name: file for name, (_, file) in found.items()}


def read_settings(
    reference: str, strength: int, origin_: str, points: Iterable[EntryPoint]
) -> SettingsFile:
    """Read the preset or the file that ``reference`` names; a path has a slash or ends in .toml.

    Args:
        reference: A preset's name, or a path.
        strength: ``PRESET`` or ``FILE``.
        origin_: Where the reference was set, for messages.
        points: Packages that hold presets.

    Raises:
        SettingError: There is no such preset or file, or it is not TOML.
    """
    if reference.lower().endswith(SUFFIX) or "/" in reference or "\\" in reference:
        path = Path(reference).expanduser()
        return SettingsFile(reference, strength, _read(path, reference, origin_))
    presets = known_presets(points)
    label = f"{LABELS[strength]} {reference}"
    if reference in presets:
        return SettingsFile(label, strength, _read(presets[reference], label, origin_))
    if Path(reference).is_file():
        return SettingsFile(reference, strength, _read(Path(reference), reference, origin_))
    raise SettingError(
        f"no preset or file named {reference!r} (set by {origin_})"
        f"{near(reference, presets, 'known presets')}"
    )


def _toml_files(point: EntryPoint) -> Iterator[Traversable]:
    try:
        folder = files(point.value)
    except ImportError as error:
        raise PluginError(
            f"presets {point.name!r} of {origin(point)} cannot be found: {error}"
        ) from error
    yield from sorted(
        (file for file in folder.iterdir() if file.name.endswith(SUFFIX)), key=lambda f: f.name
    )


def _read(file: Traversable, label: str, origin_: str) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingError(f"cannot read {label}: {reason} (set by {origin_})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{label} is not valid TOML: {error} (set by {origin_})") from error
