"""Measure a server: throughput, latency, caches, speculation, quality; a comparison, a soak."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial

from attrs import frozen

from mlxserve_hookspecs import Command, CommandHost, hookimpl


@frozen
class Bench:
    """Adds ``mlxserve bench``."""

    @hookimpl
    def commands(self, host: CommandHost) -> Sequence[Command]:
        """Add the command; what it measures with is imported when it is asked for."""
        about = (
            "measure: serve, prefix, restart, speculation, soak, compare, engine, quality; report"
        )
        run = partial(_run, host)
        return (
            Command(name="bench", help=about, add_arguments=_add_arguments, run=run, starts=True),
        )


def _add_arguments(parser: ArgumentParser) -> None:
    from mlxserve_plugins.bench.command import add_arguments  # noqa: PLC0415 - rarely needed

    add_arguments(parser)


def _run(host: CommandHost, arguments: Namespace) -> int:
    from mlxserve_plugins.bench.command import run  # noqa: PLC0415 - likewise

    return run(arguments, host)
