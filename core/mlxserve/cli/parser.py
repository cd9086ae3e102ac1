"""Read flags with argparse, and let nothing of it decide: values stay as they were typed."""

from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    BooleanOptionalAction,
    HelpFormatter,
    Namespace,
)
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from mlxserve.settings import Section, Setting
from mlxserve.values import choices, is_switch, members
from mlxserve_hookspecs import SettingError

FLAG_KEY: Final = "flag:"
"""Leads the names of options in a namespace, apart from a command's own arguments."""

METAVARS: Final = {int: "N", float: "X", Path: "PATH"}

SELECTORS: Final = {
    "plugins": "add to the default set, or take out: a,b,no:c,./file.py; first named, first asked",
    "plugins-dir": "add every plugin file of a folder",
    "preset": "settings to start from: a preset's name, or a TOML file",
    "config": "settings that beat the preset's: a TOML file, or a preset's name",
}


class _Formatter(HelpFormatter):
    """Leaves room for the longest flags beside their help."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class Parser(ArgumentParser):
    """An ``ArgumentParser`` that raises instead of leaving, and takes no abbreviation."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise ``SettingError``: it becomes one line and exit status 2, like any other."""
        raise SettingError(message.removeprefix("argument "))


def add_selectors(parser: ArgumentParser) -> None:
    """Add the flags that say which plugins and files there are."""
    group = parser.add_argument_group("settings", "which plugins run, and where settings are")
    for name, what in SELECTORS.items():
        group.add_argument(
            f"--{name}",
            dest=FLAG_KEY + name,
            metavar=name.rpartition("-")[2].upper(),
            action="append" if name == "plugins" else "store",
            help=f"{what} (${selector_variable(name)})",
            default=SUPPRESS,
        )


def selector_variable(name: str) -> str:
    """Return the variable that stands in for ``--plugins``, ``--preset`` or ``--config``."""
    return f"MLXSERVE_{name.upper().replace('-', '_')}"


def add_section(parser: ArgumentParser, section: Section, note: str = "") -> None:
    """Add one flag per option, grouped under the section's name."""
    group = parser.add_argument_group(f"{section.name}{note}", about(section))
    for setting in section.settings.values():
        add_setting(group.add_argument, setting)


def about(section: Section) -> str:
    """Return the line that stands above the section's flags."""
    return (section.options.__doc__ or "").strip().partition("\n")[0]


def add_setting(add: Callable[..., object], setting: Setting, *, brief: bool = False) -> None:
    """Add the flag of one option by ``add_argument``; ``brief`` leaves its variable out."""
    add(setting.flag, **_argument(setting, brief=brief))


def parse_flags(
    words: Sequence[str], sections: Iterable[Section], without: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Return what was typed, by flag, and the words that belong to nobody here.

    Args:
        words: The command line after the command's name.
        sections: Whose flags are known.
        without: Flags that a command keeps for itself.

    Raises:
        SettingError: A flag lacks its value.
    """
    parser = Parser("mlxserve", add_help=False, argument_default=SUPPRESS)
    add_selectors(parser)
    for setting in (setting for section in sections for setting in section.settings.values()):
        if setting.flag not in without:
            parser.add_argument(setting.flag, **_argument(setting))
    namespace, rest = parser.parse_known_args(list(words))
    return _by_flag(namespace), rest


def _by_flag(namespace: Namespace) -> dict[str, Any]:
    return {
        f"--{key.removeprefix(FLAG_KEY)}": value
        for key, value in vars(namespace).items()
        if key.startswith(FLAG_KEY)
    }


def _argument(setting: Setting, *, brief: bool = False) -> Mapping[str, Any]:
    action: type[Action] | None = BooleanOptionalAction if is_switch(setting.field.type) else None
    metavar = None if action else _metavar(setting)
    variable = "" if brief else f"; ${setting.variables[0]}"
    line = f"{setting.option.help} (default: {_shown(setting)}{variable})"
    return {
        "dest": FLAG_KEY + setting.flag[2:],
        "help": line.replace("%", "%%"),
        "default": SUPPRESS,
        **({"action": action} if action else {"metavar": metavar}),
    }


def _metavar(setting: Setting) -> str:
    allowed = choices(setting.field.type)
    kinds = members(setting.field.type)
    words = [word for kind, word in METAVARS.items() if kind in kinds]
    if allowed:
        return f"{{{','.join([*map(str, allowed), *words])}}}"
    return words[0] if words else setting.name.upper()


def _shown(setting: Setting) -> str:
    default = setting.shown(setting.default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in (None, "", ()) else str(default)
