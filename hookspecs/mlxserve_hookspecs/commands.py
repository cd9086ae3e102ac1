"""Hooks that add subcommands to ``mlxserve``."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from attrs import frozen

from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.offline import CommandHost


@frozen(kw_only=True)
class Command:
    """A subcommand.

    Attributes:
        name: The word after ``mlxserve``.
        help: One line for ``mlxserve --help``.
        add_arguments: Adds the command's own arguments to its parser.
        run: Does the work and returns the exit status. Heavy imports belong in here.
        starts: Whether it starts servers of its own, whose flags stand after ``--``: in front of it
            they would set nothing, and are refused.
    """

    name: str
    help: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    starts: bool = False


@hookspec
def commands(host: CommandHost) -> Sequence[Command] | None:
    """Add subcommands.

    **Gather.** Every plugin is asked.

    Called once when the command line is read, on the main thread: must not import mlx, nor ask
    anything of ``host``, which is for the commands when they run.
    """
