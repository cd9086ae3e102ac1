"""Measure a running server: throughput, what caches and speculation are worth, a soak."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl


@frozen
class Bench:
    """Adds ``mlxserve bench``."""

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the command; what it measures with is imported when it is asked for."""
        about = "measure a running server: serve, prefix, restart, speculation, soak"
        return (Command(name="bench", help=about, add_arguments=_add_arguments, run=_run),)


def _add_arguments(parser: ArgumentParser) -> None:
    from mlxserve_plugins.bench.command import add_arguments  # noqa: PLC0415 - rarely needed

    add_arguments(parser)


def _run(arguments: Namespace) -> int:
    from mlxserve_plugins.bench.command import run  # noqa: PLC0415 - likewise

    return run(arguments)
