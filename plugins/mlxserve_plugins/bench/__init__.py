"""Measure a running server: throughput, what caches and speculation are worth, a soak."""

from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl


@frozen
class Bench:
    """Adds ``mlxserve bench``."""

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the command; what it measures with is imported when it runs."""
        from mlxserve_plugins.bench.command import bench_command  # noqa: PLC0415 - rarely needed

        return (bench_command(),)
