"""Every flag of the feature document exists, with its name, type, default and variable."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import NoneType
from typing import Any, Final, cast

import pytest
from attrs import frozen

from mlxserve.cli.help import command_help
from mlxserve.cli.resolution import resolve
from mlxserve.cli.selection import CORE
from mlxserve.loading import installed, is_builtin
from mlxserve.resolved import Resolved
from mlxserve.settings import Section, Setting, options_class
from mlxserve.values import choices, is_switch, members
from mlxserve_hookspecs import SettingError

DOCUMENT: Final = Path(__file__).parents[1] / "data" / "flags.md"
INSTALLED: Final = installed(cast(EntryPoints, entry_points()))
READ: Final = {"int": int, "float": float, "str": str}
SAMPLES: Final = {"int": "1", "float": "1.0", "str": "a-name"}


@frozen
class Documented:
    """A row of the document's tables.

    Attributes:
        flags: The flag; the ``--no-`` form after it if both are documented.
        kind: ``str``, ``int``, ``float``, ``bool``, or ``flag`` for one that takes no value.
        default: As it is written; ``$NAME`` is a variable that sets it.
    """

    flags: tuple[str, ...]
    kind: str
    default: str

    @property
    def takes_value(self) -> bool:
        return self.kind in READ

    @property
    def variable(self) -> str | None:
        return self.default[1:] if self.default.startswith("$") else None

    @property
    def value(self) -> Any:
        """What is in force when nobody sets anything."""
        if not self.takes_value:
            return True  # "False" for --no-ssd and "True" for --no-adaptive-k: neither is typed
        if self.default == "None" or self.variable:
            return None
        return READ[self.kind](self.default)

    @property
    def sample(self) -> str:
        """A value to set: the default, which must be allowed, where there is one."""
        return SAMPLES[self.kind] if self.value is None else self.default


def documented() -> list[Documented]:
    rows = []
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if line.startswith("| `--"):
            flags, kind, default = (cell.strip() for cell in line.split("|")[1:4])
            names = tuple(re.findall(r"`(--[a-z-]+)`", flags))
            rows.append(Documented(names, kind, default.strip("`")))
    return rows


@cache
def settings() -> Mapping[str, Setting]:
    """Return every option of the core and the built-in plugins, by each of its flags."""
    sections = list(CORE)
    for name, point in INSTALLED.plugins.items():
        options = options_class(INSTALLED.load(name)) if is_builtin(point) else None
        sections += [Section(name, options)] if options else []
    return {
        flag: setting
        for section in sections
        for setting in section.settings.values()
        for flag in setting.flags
    }


def setting_of(row: Documented) -> Setting:
    found = [settings().get(flag) for flag in row.flags]
    assert None not in found, f"nobody has {', '.join(row.flags)}"
    setting = cast(Setting, found[0])
    assert all(other is setting for other in found)
    return setting


@cache
def default_plugins() -> tuple[str, ...]:
    return resolve([], {}, INSTALLED)[0].names


def resolved(
    setting: Setting, words: Sequence[str] = (), variables: Mapping[str, str] = {}
) -> Resolved:
    """Return the settings of a run in which the option's plugin is active unless turned off."""
    active = setting.core or setting.section in default_plugins()
    plugins = () if active else ("--plugins", setting.section)
    return resolve([*plugins, *words], variables, INSTALLED)[0]


def value_and_origin(setting: Setting, run: Resolved) -> tuple[Any, str]:
    """Return what an option came to; a switch that turned its own plugin off is off."""
    for row in run.rows:
        if (row.section, row.name) == (setting.section, setting.name):
            return row.value, row.origin
    assert is_switch(setting.field.type)
    assert setting.section not in run.names
    return False, setting.flags[-1]


def kind_of(setting: Setting) -> str:
    """Return the option's type in the document's words."""
    if is_switch(setting.field.type):
        return "switch"
    kinds = {type(value) for value in choices(setting.field.type)} or {
        member for member in members(setting.field.type) if member is not NoneType
    }
    return "/".join(sorted("str" if kind in (str, Path) else kind.__name__ for kind in kinds))


@pytest.fixture(scope="module")
def help_by_flag() -> Mapping[str, str]:
    """Return what ``mlxserve run --help-all`` says of each flag."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        text = command_help("run", ("--help-all",), {}, INSTALLED)
    found = {}
    for entry in re.split(r"\n(?=  --|\S)", text):
        head = re.match(r"  (--[a-z-]+)(?:, (--[a-z-]+))?", entry)
        for flag in head.groups() if head else ():
            if flag:
                found[flag] = " ".join(entry.split())
    return found


ROWS = documented()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.flags[0])


def test_the_document_is_read_whole() -> None:
    assert len(ROWS) == DOCUMENT.read_text("utf-8").count("| `--") == 53
    assert {row.kind for row in ROWS} == {*READ, "bool", "flag"}


@each_row
def test_help_names_flag_default_and_variable(
    row: Documented, help_by_flag: Mapping[str, str]
) -> None:
    shown = "on" if row.value is True else "none" if row.value is None else row.default
    variable = setting_of(row).variables[0]
    for flag in row.flags:
        assert help_by_flag[flag].endswith(f"(default: {shown}; ${variable})")


@each_row
def test_type_is_the_documented_one(row: Documented) -> None:
    assert kind_of(setting_of(row)) == (row.kind if row.takes_value else "switch")


@each_row
def test_default_is_the_documented_one(row: Documented) -> None:
    setting = setting_of(row)
    value, origin = value_and_origin(setting, resolved(setting))
    assert origin == "default"
    assert (str(value) if isinstance(value, Path) else value) == row.value


@each_row
def test_flag_sets_it(row: Documented) -> None:
    setting = setting_of(row)
    for flag in row.flags:
        words = [flag, row.sample] if row.takes_value else [flag]
        value, origin = value_and_origin(setting, resolved(setting, words))
        assert origin == flag
        if not row.takes_value:
            assert value == (not flag.startswith("--no-"))
        elif isinstance(value, Path):
            assert value == Path(row.sample).expanduser()
        elif not setting.option.secret:
            assert READ[row.kind](str(value)) == READ[row.kind](row.sample)


@each_row
def test_variables_set_it(row: Documented) -> None:
    setting = setting_of(row)
    names = {f"MLXSERVE_{setting.flag[2:].replace('-', '_').upper()}", *setting.option.env}
    assert row.variable is None or row.variable in names
    for name in names:
        variables = {name: row.sample if row.takes_value else "on"}
        assert value_and_origin(setting, resolved(setting, (), variables))[1] == f"${name}"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.kind in ("int", "float")], ids=lambda row: row.flags[0]
)
def test_words_are_no_number(row: Documented) -> None:
    setting = setting_of(row)
    with pytest.raises(SettingError, match=rf"{row.flags[0]} must be .*, not 'plenty'"):
        resolved(setting, [row.flags[0], "plenty"])
