"""Read flags with argparse, and let nothing of it decide: values stay as they were typed."""

from argparse import SUPPRESS, Action, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from mlxserve.settings import Section, Setting
from mlxserve.values import choices, is_switch
from mlxserve_hookspecs import SettingError

FLAG_KEY: Final = "flag:"
"""Leads the names of options in a namespace, apart from a command's own arguments."""

SELECTORS: Final = {
    "plugins": "add to the default set, or take out: a,b,no:c; first named, first asked",
    "preset": "settings to start from: a preset's name, or a TOML file",
    "config": "settings that beat the preset's: a TOML file, or a preset's name",
}


class Parser(ArgumentParser):
    """An ``ArgumentParser`` that raises instead of leaving, and takes no abbreviation."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise ``SettingError``: it becomes one line and exit status 2, like any other."""
        raise SettingError(message.removeprefix("argument "))


def add_selectors(parser: ArgumentParser) -> None:
    """Add the flags that say which plugins and files there are."""
    group = parser.add_argument_group("settings", "which plugins run, and where settings are")
    for name, about in SELECTORS.items():
        group.add_argument(
            f"--{name}",
            dest=FLAG_KEY + name,
            metavar=name.upper(),
            action="append" if name == "plugins" else "store",
            help=f"{about} (${selector_variable(name)})",
            default=SUPPRESS,
        )


def selector_variable(name: str) -> str:
    """Return the variable that stands in for ``--plugins``, ``--preset`` or ``--config``."""
    return f"MLXSERVE_{name.upper()}"


def add_section(parser: ArgumentParser, section: Section, note: str = "") -> None:
    """Add one flag per option, grouped under the section's name."""
    about = (section.options.__doc__ or "").strip().partition("\n")[0]
    group = parser.add_argument_group(f"{section.name}{note}", about)
    for setting in section.settings.values():
        group.add_argument(setting.flag, **_argument(setting))


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


def _argument(setting: Setting) -> Mapping[str, Any]:
    action: type[Action] | None = BooleanOptionalAction if is_switch(setting.field.type) else None
    metavar = None if action else _metavar(setting)
    about = f"{setting.option.help} (default: {_shown(setting)}; ${setting.variables[0]})"
    return {
        "dest": FLAG_KEY + setting.flag[2:],
        "help": about.replace("%", "%%"),
        "default": SUPPRESS,
        **({"action": action} if action else {"metavar": metavar}),
    }


def _metavar(setting: Setting) -> str:
    allowed = choices(setting.field.type)
    return f"{{{','.join(map(str, allowed))}}}" if allowed else setting.name.upper()


def _shown(setting: Setting) -> str:
    default = setting.shown(setting.default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in (None, "", ()) else str(default)
