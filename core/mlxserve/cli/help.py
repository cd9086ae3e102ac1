"""What ``--help`` prints: flags by section and plugin, also those of plugins that do not run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mlxserve.cli.parser import Parser, about, add_section, add_selectors, add_setting
from mlxserve.cli.selection import CORE, Selection, select
from mlxserve.cli.strays import inactive_sections
from mlxserve.loading import Installed
from mlxserve.presets import known_presets
from mlxserve.settings import Section
from mlxserve_hookspecs import Command, MlxserveError

BUILT_IN: Final = {
    "run": "serve a model (flags without a command do the same)",
    "plugins": "list the installed plugins [--json]",
    "config": "print every setting and where it came from [--json]",
}
"""The core's own commands."""

HELP_ALL: Final = "--help-all"
HELP_FLAGS: Final = frozenset(("-h", "--help", HELP_ALL))
NOT_ACTIVE: Final = " (not active)"


def overview(added: Iterable[Command]) -> str:
    """Return the help of ``mlxserve`` alone."""
    parser = Parser(
        "mlxserve",
        usage="mlxserve COMMAND [flags]",
        description="Serve a large language model with MLX.",
        epilog="Start with: mlxserve run --preset demo. mlxserve COMMAND --help says more.",
        add_help=False,
    )
    group = parser.add_argument_group("commands")
    about = BUILT_IN | {command.name: command.help for command in added}
    for name, line in about.items():
        group.add_argument(name, nargs="?", help=line.replace("%", "%%"))
    flags = parser.add_argument_group("flags")
    flags.add_argument("-h", "--help", action="store_true", help="print this")
    flags.add_argument("--version", action="store_true", help="print the version")
    return parser.format_help().rstrip()


def command_help(
    name: str, words: Sequence[str], variables: Mapping[str, str], installed: Installed
) -> str:
    """Return the help of one of the core's commands, as ``words`` choose the plugins.

    It is short, what most people set and where the rest is, unless ``--help-all`` is among them.
    """
    parser = Parser(
        f"mlxserve {name}",
        usage=f"mlxserve {name} [flags]",
        description=BUILT_IN[name],
        add_help=False,
    )
    asked = [word for word in words if word not in HELP_FLAGS]
    notes: list[str] = []
    selection: Selection | None = None
    try:
        notes.append(f"Presets: {', '.join(sorted(known_presets(installed.presets)))}.")
        selection = select(asked, variables, installed)
    except MlxserveError as error:
        notes.append(f"These settings do not work: {error}")
    if name != "run":
        parser.add_argument_group("output").add_argument(
            "--json", action="store_true", help="print JSON"
        )
    add_selectors(parser)
    sections = tuple(_sections(selection, installed))
    if HELP_ALL in words:
        for section, note in sections:
            add_section(parser, section, note)
    else:
        _add_common(parser, [section for section, note in sections if not note])
    notes += [str(error) for error in selection.broken.values()] if selection else []
    parser.epilog = " ".join(notes).replace("%", "%%")
    rest = "" if HELP_ALL in words else groups(name, sections)
    return parser.format_help().rstrip() + rest


def groups(name: str, sections: Iterable[tuple[Section, str]]) -> str:
    """Return one line for each group of flags, and how to see them."""
    lines = [(f"{section.name}{note}", about(section)) for section, note in sections]
    width = max(len(title) for title, _ in lines)
    listed = "\n".join(f"  {title:{width}}  {what}" for title, what in lines)
    return f"\n\ngroups of flags (mlxserve {name} {HELP_ALL} lists every flag):\n{listed}"


def _sections(selection: Selection | None, installed: Installed) -> Iterator[tuple[Section, str]]:
    for section in selection.active if selection else CORE:
        yield section, ""
    if selection:
        for section in inactive_sections(selection, installed, strangers=False):
            yield section, NOT_ACTIVE


def _add_common(parser: Parser, sections: Iterable[Section]) -> None:
    group = parser.add_argument_group("what most people set")
    for setting in (setting for section in sections for setting in section.settings.values()):
        if setting.option.common:
            add_setting(group.add_argument, setting, brief=True)
