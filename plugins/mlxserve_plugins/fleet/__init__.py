"""Serve many models behind one address: ``mlxserve fleet``, a server process for each model."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl


@frozen
class Fleet:
    """Adds ``mlxserve fleet``."""

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the command; what it serves with is imported when it runs."""
        about = "serve many models behind one address, each started when it is asked for"
        return (Command(name="fleet", help=about, add_arguments=_add_arguments, run=_run),)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="fleet.toml", help="the models, and what they may use")
    parser.add_argument("--host", help="address to listen on, before the file's")
    parser.add_argument("--port", type=int, help="port to listen on, before the file's; 0: any")


def _run(arguments: Namespace) -> int:
    from mlxserve_plugins.fleet.command import run  # noqa: PLC0415 - rarely needed

    return run(arguments)
