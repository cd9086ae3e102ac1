"""Look at machine, backend, model, memory, port, disk and plugins, and say what to do."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl


@frozen
class Doctor:
    """Adds ``mlxserve doctor``."""

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the command; what it looks with is imported when it runs."""
        about = "look at this machine and these settings, and say what to do before a start"
        return (Command(name="doctor", help=about, add_arguments=_add_arguments, run=_run),)


def _add_arguments(parser: ArgumentParser) -> None:
    from mlxserve_plugins.doctor.command import add_arguments  # noqa: PLC0415 - rarely needed

    add_arguments(parser)


def _run(arguments: Namespace) -> int:
    from mlxserve_plugins.doctor.command import run  # noqa: PLC0415 - likewise

    return run(arguments)
