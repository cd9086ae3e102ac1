"""What a user can set: flags over variables over the TOML file over the preset over defaults."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from inspect import isclass
from typing import Any, Final

import attrs

from mlxserve.values import convert, is_switch
from mlxserve_hookspecs import METADATA_KEY, Option, PluginError, SettingError

DEFAULT, PRESET, FILE, VARIABLE, FLAG = range(5)
"""How strongly a value was meant: the higher beats the lower."""

DEFAULT_ORIGIN: Final = "default"
MASK: Final = "****"
RESERVED: Final = frozenset(
    f"--{name}"
    for name in (
        *("plugins", "plugins-dir", "trace", "preset", "config"),
        *("help", "help-all", "json", "version"),
    )
)
"""Flags that choose what options there are, or mean something to every command."""


@attrs.frozen(slots=False)
class Setting:
    """One option, and the names by which a user may set it."""

    section: str
    field: "attrs.Attribute[Any]"
    option: Option
    core: bool = False

    @property
    def name(self) -> str:
        """The TOML key within the section."""
        return self.field.name

    @cached_property
    def flag(self) -> str:
        """The command-line flag: ``--port``, ``--PLUGIN-OPTION``, or as declared."""
        prefix = "" if self.core else f"{self.section}-"
        return self.option.flag or f"--{prefix}{self.name}".replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag and, for a switch, its ``--no-`` form."""
        return (self.flag, f"--no-{self.flag[2:]}") if is_switch(self.field.type) else (self.flag,)

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, strongest first."""
        return (f"MLXSERVE_{self.flag[2:].replace('-', '_').upper()}", *self.option.env)

    @property
    def default(self) -> Any:
        """The value when nobody sets one."""
        default: Any = self.field.default
        return default.factory() if hasattr(default, "factory") else default

    def shown(self, value: Any) -> Any:
        """Return ``value`` as it may be printed."""
        return MASK if self.option.secret and value not in (None, "") else value


@attrs.frozen(slots=False)
class Section:
    """The options of the core's section, or of one plugin."""

    name: str
    options: type[Any]
    core: bool = False

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """The options by their TOML keys, in the order of declaration."""
        return {
            field.name: Setting(self.name, field, field.metadata[METADATA_KEY], self.core)
            for field in attrs.fields(attrs.resolve_types(self.options))
            if METADATA_KEY in field.metadata
        }

    @property
    def flags(self) -> frozenset[str]:
        """Every flag of its options."""
        return frozenset(flag for setting in self.settings.values() for flag in setting.flags)


@attrs.frozen
class SettingsFile:
    """A TOML file of settings: one table per section, ``plugins`` above them.

    Attributes:
        label: How messages call it: its path, or ``preset demo``.
        strength: ``FILE`` or ``PRESET``.
        tables: Its contents.
    """

    label: str
    strength: int
    tables: Mapping[str, Any]

    def find(self, setting: Setting) -> "Found | None":
        """Return what the file says about ``setting``."""
        table = self.tables.get(setting.section)
        if not isinstance(table, Mapping) or setting.name not in table:
            return None
        where = f"[{setting.section}] {setting.name} in {self.label}"
        return Found(table[setting.name], where, self.strength)


@attrs.frozen
class Found:
    """A value before it is read, where it was set, and how strongly."""

    raw: Any
    origin: str
    strength: int


@attrs.frozen
class Sources:
    """Where values come from.

    Attributes:
        flags: Values by the setting's flag.
        variables: The environment.
        files: Strongest first.
    """

    flags: Mapping[str, Any] = attrs.field(factory=dict)
    variables: Mapping[str, str] = attrs.field(factory=dict)
    files: tuple[SettingsFile, ...] = ()

    def find(self, setting: Setting) -> Found:
        """Return the strongest value for ``setting``: the default if nobody set one."""
        return next(self._candidates(setting))

    def value(self, setting: Setting) -> tuple[Any, Found]:
        """Return the value of ``setting``, read and checked, and where it came from.

        Raises:
            SettingError: It is not of the option's type, or its check refuses it.
        """
        found = self.find(setting)
        if found.strength == DEFAULT:
            return found.raw, found
        try:
            value = convert(setting.field.type, found.raw)
            check(setting, value)
        except ValueError as error:
            shown = repr(setting.shown(found.raw))
            raise SettingError(
                f"{setting.flag} {error}, not {shown} (set by {found.origin})"
            ) from error
        return value, found

    def _candidates(self, setting: Setting) -> Iterator[Found]:
        if setting.flag in self.flags:
            raw = self.flags[setting.flag]
            yield Found(raw, setting.flags[-1] if raw is False else setting.flag, FLAG)
        for name in setting.variables:
            if self.variables.get(name):
                yield Found(self.variables[name], f"${name}", VARIABLE)
        yield from filter(None, (file.find(setting) for file in self.files))
        yield Found(setting.default, DEFAULT_ORIGIN, DEFAULT)


def options_class(plugin: Any) -> type[Any] | None:
    """Return the attrs class that ``plugin`` annotates its ``options`` with, if it has one."""
    if not isclass(plugin) or not attrs.has(plugin):
        return None
    declared = attrs.fields_dict(attrs.resolve_types(plugin)).get("options")
    return declared.type if declared and attrs.has(declared.type or object) else None


def check(setting: Setting, value: Any) -> None:
    """Run the option's validator.

    Raises:
        ValueError: The value is refused; the message has neither the option's name nor the value.
    """
    if setting.field.validator is None:
        return
    try:
        setting.field.validator(None, setting.field, value)
    except (ValueError, TypeError) as error:
        raise ValueError(_reason(error, setting, value)) from error


def build(section: Section, sources: Sources) -> tuple[Any, dict[str, tuple[Any, str]]]:
    """Return the section's options and, by name, each one's printable value and its origin.

    Raises:
        SettingError: A value is refused, or the values contradict each other.
    """
    values = {name: sources.value(setting) for name, setting in section.settings.items()}
    rows = {
        name: (section.settings[name].shown(value), found.origin)
        for name, (value, found) in values.items()
    }
    arguments = {
        section.settings[name].field.alias or name: value for name, (value, _) in values.items()
    }
    try:
        return section.options(**arguments), rows
    except (ValueError, TypeError) as error:
        origins = [found.origin for _, found in values.values() if found.strength > DEFAULT]
        where = f" (set by {', '.join(origins)})" if origins else ""
        raise SettingError(f"[{section.name}]: {error}{where}") from error


def check_keys(section: Section, files: Iterable[SettingsFile]) -> None:
    """Refuse keys that the section does not have.

    Raises:
        SettingError: A file's table has one, or is no table.
    """
    for file in files:
        table = file.tables.get(section.name, {})
        if not isinstance(table, Mapping):
            raise SettingError(f"{section.name!r} in {file.label} must be a table")
        for key in sorted(table.keys() - section.settings.keys()):
            raise SettingError(
                f"[{section.name}] in {file.label} has an unknown key {key!r}"
                f"{near(key, section.settings, 'known')}"
            )


def check_flags(sections: Iterable[Section]) -> None:
    """Refuse two options that a user would set by the same flag.

    Raises:
        PluginError: There are two.
    """
    owners: dict[str, Setting] = {}
    sections = tuple(sections)
    for section in sections:
        if taken := RESERVED & section.flags:
            raise PluginError(f"{section.name!r} declares {min(taken)}, which is the core's own")
    for setting in (setting for section in sections for setting in section.settings.values()):
        for flag in setting.flags:
            rival = owners.setdefault(flag, setting)
            if rival is not setting:
                raise PluginError(
                    f"both {rival.section!r} and {setting.section!r} declare {flag}; "
                    f"take one out with --plugins no:NAME"
                )


def near(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``; did you mean x?`` or, with ``otherwise``, ``; known: a, b`` or nothing."""
    names = sorted(known)
    if close := get_close_matches(word, names, n=2):
        return f"; did you mean {' or '.join(close)}?"
    return f"; {otherwise}: {', '.join(names) or 'none'}" if otherwise else ""


def _reason(error: Exception, setting: Setting, value: Any) -> str:
    """Take the option's name and value out of what an attrs validator says."""
    text = str(error.args[0]) if error.args else "is refused"
    text = text.removeprefix(f"'{setting.name}' ").removeprefix(f"{setting.name} ")
    text = text.removesuffix(f": {value}").removesuffix(f" (got {value!r})")
    return text.replace(str(value), MASK) if setting.option.secret and value else text
