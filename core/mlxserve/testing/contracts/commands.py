"""The contract of subcommands."""

import sys
from collections.abc import Sequence
from typing import Any

import pytest
from pluggy import PluginManager

from mlxserve.cli.parser import Parser
from mlxserve.testing.contracts.base import Contract, added
from mlxserve_hookspecs import Command
from mlxserve_hookspecs.commands import commands


class NoHost:
    """Stands for the host while the command line is read: nothing may be asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the host is asked for {name!r} before a command runs")


class CommandsContract(Contract):
    """Of ``commands``: a word, a line of help, arguments; nothing heavy before a command runs."""

    hooks = (commands,)

    @pytest.fixture
    def made(self, manager: PluginManager) -> Sequence[Command]:
        """Return the commands."""
        return list(added(manager, commands, host=NoHost()))

    def test_names_are_words(self, made: Sequence[Command]) -> None:
        """Each command has a name of lower-case words with hyphens, no two the same."""
        names = [command.name for command in made]
        assert names
        assert len(set(names)) == len(names)
        for word in (word for name in names for word in name.split(" ")):
            assert word.replace("-", "").isalnum()
            assert word == word.lower()

    def test_help_is_one_line(self, made: Sequence[Command]) -> None:
        """Each command says in one line what it does."""
        for command in made:
            assert command.help.strip() == command.help != ""
            assert "\n" not in command.help

    def test_arguments_have_help(self, made: Sequence[Command]) -> None:
        """Each command adds its arguments to a parser, which can print its help."""
        for command in made:
            parser = Parser(f"mlxserve {command.name}", add_help=False)
            command.add_arguments(parser)
            assert parser.format_help()

    def test_nothing_heavy_is_imported(
        self, manager: PluginManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The commands are listed without mlx: ``mlxserve --help`` answers at once."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("mlx", "mlx_lm")]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, "mlx.core", None)
        monkeypatch.setitem(sys.modules, "mlx_lm", None)
        added(manager, commands, host=NoHost())

    def test_the_host_is_for_later(self, manager: PluginManager) -> None:
        """Nothing is asked of ``host`` before a command runs."""
        added(manager, commands, host=NoHost())
