"""Decide which plugins run: the default set, ``--plugins``, and what options turn on and off."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from mlxserve.choice import Choice, Word, choose, read_words
from mlxserve.cli.files import files_in, with_files
from mlxserve.cli.parser import parse_flags, selector_variable
from mlxserve.loading import Installed
from mlxserve.options import SECTIONS
from mlxserve.presets import read_settings
from mlxserve.settings import (
    DEFAULT,
    FILE,
    FLAG,
    PRESET,
    VARIABLE,
    Section,
    SettingsFile,
    Sources,
    check_flags,
    options_class,
)
from mlxserve_hookspecs import PluginError

CORE = tuple(Section(name, options, core=True) for name, options in SECTIONS.items())


@frozen
class Selection:
    """Which plugins run, and what was said to whom; no plugin is built yet.

    Attributes:
        choice: The active plugins, and why.
        sections: The options of the active plugins and of those that an option turned off.
        broken: Why an active plugin cannot be imported.
        sources: Where values come from.
        rest: Words of the command line that belong to nobody here.
        installed: What is installed, and the plugin files that were named.
    """

    choice: Choice
    sections: Mapping[str, Section]
    broken: Mapping[str, PluginError]
    sources: Sources
    rest: tuple[str, ...]
    installed: Installed

    @property
    def active(self) -> tuple[Section, ...]:
        """The sections that count: the core's and those of the active plugins."""
        names = self.choice.names
        return CORE + tuple(self.sections[name] for name in names if name in self.sections)


@frozen
class _Seen:
    """The plugins that were looked at so far."""

    sections: dict[str, Section] = field(factory=dict)
    broken: dict[str, PluginError] = field(factory=dict)

    def look_at(self, names: Iterable[str], installed: Installed) -> None:
        """Import plugins that have not been looked at."""
        for name in names:
            if name in self.sections or name in self.broken:
                continue
            if name in SECTIONS:
                self.broken[name] = PluginError(
                    f"a plugin cannot be named {name!r}, as settings are"
                )
                continue
            try:
                options = options_class(installed.load(name))
            except PluginError as error:
                installed.known(name)
                self.broken[name] = error
            else:
                if options:
                    self.sections[name] = Section(name, options)


def select(
    words: Sequence[str],
    variables: Mapping[str, str],
    installed: Installed,
    without: frozenset[str] = frozenset(),
) -> Selection:
    """Decide which plugins run; imports those and no others.

    An option may turn plugins on and off, whose options may turn others on and off: this goes
    round until nothing changes.

    Raises:
        MlxserveError: Something was set to what it cannot be, or contradicts something else.
    """
    typed, _ = parse_flags(words, ())
    files = _files(typed, variables, installed)
    installed, named = with_files(installed, _named(typed, variables, files))
    for word in named:
        installed.known(word.name)
    seen = _Seen()
    choice = choose(named, installed.default)
    for _ in range(len(installed.plugins) + 2):
        seen.look_at(choice.names, installed)
        flags, rest = parse_flags(words, (*CORE, *_checked(seen.sections)), without)
        sources = Sources(flags, variables, files)
        switched = _switched(seen.sections, named, sources, installed)
        before, choice = choice, choose([*named, *switched], installed.default)
        if choice.names == before.names and not _unfounded(switched, choice):
            return Selection(choice, seen.sections, seen.broken, sources, tuple(rest), installed)
    raise PluginError(
        f"plugins turn each other on and off without end: {', '.join(sorted(seen.sections))}"
    )


def _files(
    typed: Mapping[str, Any], variables: Mapping[str, str], installed: Installed
) -> tuple[SettingsFile, ...]:
    found = []
    for name, strength in (("config", FILE), ("preset", PRESET)):
        variable = selector_variable(name)
        if reference := typed.get(f"--{name}"):
            found.append(read_settings(reference, strength, f"--{name}", installed.presets))
        elif reference := variables.get(variable):
            found.append(read_settings(reference, strength, f"${variable}", installed.presets))
    return tuple(found)


def _named(
    typed: Mapping[str, Any], variables: Mapping[str, str], files: Iterable[SettingsFile]
) -> Iterable[Word]:
    for raw in typed.get("--plugins", ()):
        yield from read_words(raw, FLAG, "--plugins")
    variable = selector_variable("plugins")
    yield from read_words(variables.get(variable, ""), VARIABLE, f"${variable}")
    if folder := typed.get("--plugins-dir"):
        yield from read_words(files_in(folder, "--plugins-dir"), FILE, "--plugins-dir")
    elif folder := variables.get(variable := selector_variable("plugins-dir")):
        yield from read_words(files_in(folder, f"${variable}"), FILE, f"${variable}")
    for file in files:
        yield from read_words(
            file.tables.get("plugins", ()), file.strength, f"plugins in {file.label}"
        )


def _checked(sections: Mapping[str, Section]) -> tuple[Section, ...]:
    check_flags((*CORE, *sections.values()))
    return tuple(sections.values())


def _switched(
    sections: Mapping[str, Section], named: Sequence[Word], sources: Sources, installed: Installed
) -> list[Word]:
    """Return the words of options, of plugins that run but for what they say about themselves."""
    said = {name: list(_said(section, sources)) for name, section in sections.items()}
    words = []
    for name, its_own in said.items():
        others = [word for other, its in said.items() if other != name for word in its]
        if name in choose([*named, *others], installed.default).names:
            words += its_own
    return words


def _unfounded(switched: Sequence[Word], choice: Choice) -> bool:
    """Return whether a plugin spoke that does not run, though not for its own words."""
    speakers = {word.speaker for word in switched if word.speaker}
    verdicts = {name: choice.verdicts.get(name) for name in speakers - set(choice.names)}
    return any(word is None or word.speaker != name for name, word in verdicts.items())


def _said(section: Section, sources: Sources) -> Iterable[Word]:
    for setting in section.settings.values():
        if setting.option.switches:
            value, found = sources.value(setting)
            spoken = tuple(setting.option.switches.get(value, ()))
            origin = found.origin if found.strength > DEFAULT else f"{setting.flag} by default"
            yield from read_words(spoken, found.strength, origin, section.name)
