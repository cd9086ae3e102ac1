"""What ``--help`` prints: flags by section and plugin, also those of plugins that do not run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mlxserve.cli.parser import Parser, add_section, add_selectors
from mlxserve.cli.selection import CORE, Selection, select
from mlxserve.cli.strays import inactive_sections
from mlxserve.loading import Installed
from mlxserve.presets import known_presets
from mlxserve_hookspecs import Command, MlxserveError

BUILT_IN: Final = {
    "run": "serve a model (flags without a command do the same)",
    "plugins": "list the installed plugins [--json]",
    "config": "print every setting and where it came from [--json]",
}
"""The core's own commands."""

HELP_FLAGS: Final = frozenset(("-h", "--help"))
NOT_ACTIVE: Final = " (not active)"


def overview(added: Iterable[Command]) -> str:
    """Return the help of ``mlxserve`` alone."""
    parser = Parser(
        "mlxserve",
        usage="mlxserve COMMAND [flags]",
        description="Serve a large language model with MLX.",
        epilog="mlxserve COMMAND --help lists a command's flags.",
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
    """Return the help of one of the core's commands, as ``words`` choose the plugins."""
    parser = Parser(
        f"mlxserve {name}",
        usage=f"mlxserve {name} [flags]",
        description=BUILT_IN[name],
        add_help=False,
    )
    asked = [word for word in words if word not in HELP_FLAGS]
    try:
        parser.epilog = f"Presets: {', '.join(sorted(known_presets(installed.presets)))}."
        selection: Selection | None = select(asked, variables, installed)
    except MlxserveError as error:
        parser.epilog = f"These settings do not work: {error}".replace("%", "%%")
        selection = None
    if name != "run":
        parser.add_argument_group("output").add_argument(
            "--json", action="store_true", help="print JSON"
        )
    add_selectors(parser)
    _add_sections(parser, selection, installed)
    return parser.format_help().rstrip()


def _add_sections(parser: Parser, selection: Selection | None, installed: Installed) -> None:
    for section in selection.active if selection else CORE:
        add_section(parser, section)
    if selection:
        for section in inactive_sections(selection, installed, strangers=False):
            add_section(parser, section, NOT_ACTIVE)
        broken = [str(error) for error in selection.broken.values()]
        parser.epilog = " ".join((parser.epilog or "", *broken)).replace("%", "%%")
