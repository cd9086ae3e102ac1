"""Read the command's name, do what it says, and turn mistakes into one line."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoints, entry_points, version
from typing import Final, cast

from attrs import field, frozen

from mlxserve.cli.help import BUILT_IN, HELP_FLAGS, command_help, overview
from mlxserve.cli.host import Host
from mlxserve.cli.parser import Parser
from mlxserve.cli.resolution import resolve
from mlxserve.cli.selection import Selection, select
from mlxserve.cli.show import config_json, config_text, plugin_rows, plugins_text, to_json
from mlxserve.cli.strays import refuse_misplaced, refuse_strays, stray_variables
from mlxserve.hooks import gather
from mlxserve.loading import Installed, installed
from mlxserve.resolved import Resolved
from mlxserve.serve.leaving import MISTAKE, report
from mlxserve.settings import near
from mlxserve_hookspecs import PROJECT, Command, MlxserveError, SettingError
from mlxserve_hookspecs.commands import commands

INTERRUPTED: Final = 130
JSON: Final = "--json"
VERSION: Final = "--version"
ELSEWHERE: Final = {
    **dict.fromkeys(("serve", "server", "start", "up", "launch", "chat", "generate"), "run"),
    "list": "plugins",
    "plugin": "plugins",
    "settings": "config",
    "help": "--help",
}
"""What other programs call our commands."""
NO_BACKEND: Final = (
    "mlx is installed without a backend; "
    "install one with pip install 'mlxserve[cpu]' or pip install 'mlxserve[cuda]'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mlxserve`` and return its exit status; a user's mistake is one line and status 2."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    try:
        found = installed(cast(EntryPoints, entry_points()))
        return Cli(found, os.environ, words).run()
    except MlxserveError as error:
        return report(error)
    except ImportError as error:
        if "libmlx" not in str(error):
            raise
        return report(MlxserveError(NO_BACKEND))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@frozen
class Cli:
    """One call of the program.

    Attributes:
        installed: What is installed.
        variables: The environment.
        argv: The words after the program's name.
    """

    installed: Installed
    variables: Mapping[str, str] = field(repr=False)
    argv: tuple[str, ...] = field(repr=False)

    def run(self) -> int:
        """Do what the first word says; flags alone mean ``run``."""
        if not self.argv or self.argv[0] in HELP_FLAGS:
            print(overview(self._added_by_default()))
            return 0 if self.argv else MISTAKE
        if self.argv[0] == VERSION:
            return self._version()
        name, words = self.argv[0], self.argv[1:]
        if name.startswith("-"):
            name, words = "run", self.argv
        if name == "plugins" and (action := _action(words)):
            name, words = f"{name} {action}", tuple(w for w in words if w.lstrip("-") != action)
        if name not in BUILT_IN:
            return self._added(name, words)
        if VERSION in words:
            return self._version()
        if HELP_FLAGS & set(words):
            print(command_help(name, words, self.variables, self.installed))
            return 0
        return self._built_in[name](words)

    @property
    def _built_in(self) -> Mapping[str, Callable[[tuple[str, ...]], int]]:
        return {"run": self._serve, "plugins": self._plugins, "config": self._config}

    def _version(self) -> int:
        print(f"{PROJECT} {version(PROJECT)}")
        return 0

    def _serve(self, words: tuple[str, ...]) -> int:
        resolved = self._resolved(words)
        from mlxserve.serve.run import run  # noqa: PLC0415 - imports all that serves

        return run(resolved)

    def _plugins(self, words: tuple[str, ...]) -> int:
        selection = select(_without_json(words), self.variables, self.installed)
        refuse_strays(selection, selection.installed)
        rows = plugin_rows(selection, selection.installed)
        print(to_json(rows) if JSON in words else plugins_text(rows))
        return 0

    def _config(self, words: tuple[str, ...]) -> int:
        resolved = self._resolved(_without_json(words))
        print(config_json(resolved) if JSON in words else config_text(resolved))
        return 0

    def _added(self, name: str, words: tuple[str, ...]) -> int:
        """Run a plugin's command: its own flags beat the server's flags of the same name."""
        asked = tuple(word for word in words if word not in HELP_FLAGS)
        resolved, selection = resolve(
            asked, self.variables, self.installed, argv=self.argv, lenient=True
        )
        command, parser = self._command(name, resolved)
        own = frozenset(_flags(parser))
        if own & {flag for section in selection.active for flag in section.flags}:
            resolved, selection = resolve(
                asked, self.variables, self.installed, argv=self.argv, lenient=True, without=own
            )
            command, parser = self._command(name, resolved)
        if HELP_FLAGS & set(words):
            print(parser.format_help().rstrip())
            return 0
        if command.starts:
            refuse_misplaced(asked, own)
        self._warn(selection)
        return command.run(parser.parse_args(selection.rest))

    def _resolved(self, words: tuple[str, ...]) -> Resolved:
        resolved, selection = resolve(words, self.variables, self.installed, argv=self.argv)
        self._warn(selection)
        return resolved

    def _warn(self, selection: Selection) -> None:
        for line in stray_variables(selection, selection.installed):
            print(f"mlxserve: warning: {line}", file=sys.stderr)

    def _added_by_default(self) -> Sequence[Command]:
        try:
            resolved, _ = resolve((), self.variables, self.installed)
        except MlxserveError:  # told when a command is run; help must not depend on it
            return ()
        return self._commands(resolved)

    def _commands(self, resolved: Resolved) -> list[Command]:
        host = Host(self.installed, self.variables)
        several = gather(resolved.plugins, commands)(host=host)
        return [command for added in several for command in added]

    def _command(self, name: str, resolved: Resolved) -> tuple[Command, Parser]:
        found = {command.name: command for command in self._commands(resolved)}
        if name not in found:
            raise SettingError(f"unknown command {name!r}{_likely(name, [*BUILT_IN, *found])}")
        parser = Parser(
            f"mlxserve {name}",
            description=found[name].help,
            epilog="The flags of mlxserve run choose plugins and set their options here too.",
            add_help=False,
        )
        found[name].add_arguments(parser)
        return found[name], parser


def _likely(name: str, known: Sequence[str]) -> str:
    if name in ELSEWHERE:
        return f"; did you mean {PROJECT} {ELSEWHERE[name]}?"
    return near(name, known, "known")


def _flags(parser: Parser) -> list[str]:
    """Return the flags of ``parser``; argparse has no public list of them."""
    return [flag for action in parser._actions for flag in action.option_strings]  # noqa: SLF001


def _action(words: tuple[str, ...]) -> str:
    """Return what a plugin's command is to do about plugins: ``check``, or ``--trace``."""
    if "--trace" in words:
        return "trace"
    return words[0] if words and not words[0].startswith("-") else ""


def _without_json(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word != JSON)
