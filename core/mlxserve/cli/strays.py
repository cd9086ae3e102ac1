"""Refuse what a user typed and nobody will read: flags, tables, variables of nobody."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from mlxserve.cli.parser import SELECTORS, selector_variable
from mlxserve.cli.selection import CORE, Selection
from mlxserve.loading import Installed, is_builtin
from mlxserve.presets import known_presets
from mlxserve.settings import Section, Setting, SettingsFile, near, options_class
from mlxserve.tracing import VARIABLE as TRACE
from mlxserve_hookspecs import PluginError, SettingError

PREFIX: Final = "MLXSERVE_"
PLUGINS_KEY: Final = "plugins"
HELP: Final = ("--help", "--help-all", "--version")
SHORT: Final = {"-m": "--model", "-p": "--port", "-c": "--config", "-v": "--log-level debug"}
"""What short forms mean in other programs; here every flag has one name."""


def refuse_strays(selection: Selection, installed: Installed, *, lenient: bool = False) -> None:
    """Refuse flags and tables that set nothing.

    Args:
        selection: What was typed, and the plugins that run.
        installed: Every plugin, to tell whose a stray flag is.
        lenient: Leave words that nobody knows alone: a command will read them.

    Raises:
        SettingError: There is one.
    """
    _refuse_flags_of_plugins_turned_off(selection)
    if selection.rest and not lenient:
        raise SettingError(_stray_word(selection.rest[0], selection, installed))
    for file in selection.sources.files:
        for table in file.tables:
            _refuse_table(table, file, selection, installed)


def refuse_misplaced(words: Sequence[str], own: Collection[str]) -> None:
    """Refuse a server's flags in front of ``--``, for a command that starts servers of its own.

    Args:
        words: What was typed after the command's name.
        own: The command's flags.

    Raises:
        SettingError: There is one.
    """
    for word in takewhile(lambda word: word != "--", words):
        flag = word.partition("=")[0]
        # what has a space is a value, such as another program's flags
        if flag.startswith("--") and " " not in flag and flag not in own:
            raise SettingError(f"{flag} is for the server that this starts: put it after --")


def stray_variables(selection: Selection, installed: Installed) -> list[str]:
    """Return one line for each ``MLXSERVE_*`` variable that sets nothing.

    They are no error: a variable may be meant for another command, or come from an orchestrator.
    """
    known = {TRACE, *(selector_variable(name) for name in SELECTORS)} | _variables(
        selection.active
    ).keys()
    strays = sorted(
        name
        for name in selection.sources.variables
        if name.startswith(PREFIX) and name not in known
    )
    if not strays:
        return []
    idle = _variables(inactive_sections(selection, installed))
    return [
        f"${name} {_belongs(idle[name].section)}"
        if name in idle
        else f"${name} sets nothing{near(name, known)}"
        for name in strays
    ]


def inactive_sections(
    selection: Selection, installed: Installed, *, strangers: bool = True
) -> Iterator[Section]:
    """Yield the options of installed plugins that do not run, leaving out broken ones."""
    for name, point in sorted(installed.plugins.items()):
        if name in selection.choice.names or not (strangers or is_builtin(point)):
            continue
        try:
            options = options_class(installed.load(name))
        except PluginError:
            continue
        if options:
            yield Section(name, options)


def _refuse_flags_of_plugins_turned_off(selection: Selection) -> None:
    active = {section.name for section in selection.active}
    for setting in _settings(selection.sections.values()):
        typed = setting.flag in selection.sources.flags
        if typed and setting.section not in active and not setting.option.switches:
            verdict = selection.choice.verdicts.get(setting.section)
            why = f"which {verdict.origin} turns off" if verdict else "which is not active"
            raise SettingError(f"{setting.flag} belongs to plugin {setting.section!r}, {why}")


def _stray_word(word: str, selection: Selection, installed: Installed) -> str:
    flag = word.partition("=")[0]
    if not flag.startswith("-"):
        return f"unexpected argument {word!r}{_meant(word, installed)}"
    if flag in SHORT:
        return f"unknown flag {flag}; did you mean {SHORT[flag]}?"
    idle = _flags(inactive_sections(selection, installed))
    if flag in idle:
        return f"{flag} {_belongs(idle[flag].section)}"
    known = {*_flags(selection.active), *idle, *(f"--{name}" for name in SELECTORS), *HELP}
    return f"unknown flag {flag}{near(flag, known)}"


def _meant(word: str, installed: Installed) -> str:
    """Return what a word without a flag may have been meant for."""
    if word in known_presets(installed.presets):
        return f"; did you mean --preset {word}?"
    if "/" in word or ":" in word or Path(word).exists():
        return f"; did you mean --model {word}?"
    return near(word, known_presets(installed.presets)).replace("mean ", "mean --preset ")


def _belongs(plugin: str) -> str:
    return f"belongs to plugin {plugin!r}, which is not active; add --plugins {plugin}"


def _refuse_table(
    table: str, file: SettingsFile, selection: Selection, installed: Installed
) -> None:
    if table == PLUGINS_KEY or table in {section.name for section in selection.active}:
        return
    known = {section.name for section in CORE} | installed.plugins.keys()
    if table not in known:
        raise SettingError(
            f"unknown table or key {table!r} in {file.label}{near(table, known | {PLUGINS_KEY})}"
        )
    if table in selection.choice.names:
        raise SettingError(f"[{table}] in {file.label}: plugin {table!r} has no options")
    verdict = selection.choice.verdicts.get(table)
    if verdict is None or verdict.strength < file.strength:
        raise SettingError(f"[{table}] in {file.label} {_belongs(table)}")


def _settings(sections: Iterable[Section]) -> Iterator[Setting]:
    for section in sections:
        yield from section.settings.values()


def _flags(sections: Iterable[Section]) -> Mapping[str, Setting]:
    return {flag: setting for setting in _settings(sections) for flag in setting.flags}


def _variables(sections: Iterable[Section]) -> Mapping[str, Setting]:
    return {name: setting for setting in _settings(sections) for name in setting.variables}
