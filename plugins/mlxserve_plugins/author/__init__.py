"""Help who writes plugins: a package to start from, its contract, a look at every hook call."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl


@frozen
class Author:
    """Adds ``mlxserve new-plugin``, ``plugins check`` and ``plugins --trace``."""

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the commands; what they do is imported when they run."""
        return (
            Command(
                name="new-plugin",
                help="write a package for a plugin of your own, with tests",
                add_arguments=_add_new,
                run=_new,
            ),
            Command(
                name="plugins check",
                help="test the plugins of an installed distribution against their contracts",
                add_arguments=_add_check,
                run=_check,
                starts=True,
            ),
            Command(
                name="plugins trace",
                help="start on a tiny model, serve one chat, and show each call of a hook",
                add_arguments=_add_trace,
                run=_trace,
                starts=True,
            ),
        )


def _add_new(parser: ArgumentParser) -> None:
    from mlxserve_plugins.author.writing import add_arguments  # noqa: PLC0415 - rarely needed

    add_arguments(parser)


def _new(arguments: Namespace) -> int:
    from mlxserve_plugins.author.writing import run  # noqa: PLC0415 - likewise

    return run(arguments)


def _add_check(parser: ArgumentParser) -> None:
    from mlxserve_plugins.author.checking import add_check  # noqa: PLC0415 - likewise

    add_check(parser)


def _check(arguments: Namespace) -> int:
    from mlxserve_plugins.author.checking import check  # noqa: PLC0415 - likewise

    return check(arguments)


def _add_trace(parser: ArgumentParser) -> None:
    from mlxserve_plugins.author.checking import add_trace  # noqa: PLC0415 - likewise

    add_trace(parser)


def _trace(arguments: Namespace) -> int:
    from mlxserve_plugins.author.checking import trace  # noqa: PLC0415 - likewise

    return trace(arguments)
