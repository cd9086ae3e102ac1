"""Start a coding agent that talks to this server: ``mlxserve launch claude``, codex and others."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import Command, hookimpl, option


@frozen(kw_only=True)
class LaunchOptions:
    """What agents present to the server."""

    api_key: str | None = option(
        None, "the server's key, for the agents that mlxserve launch starts",
        flag="--launch-api-key", secret=True,
    )  # fmt: skip


@frozen
class Launch:
    """Adds ``mlxserve launch``."""

    options: LaunchOptions = LaunchOptions()

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add the command; its recipes are imported when it is asked for."""
        about = "start a coding agent on a running server: claude, codex, opencode and others"
        return (Command(name="launch", help=about, add_arguments=_add_arguments, run=self._run),)

    def _run(self, arguments: Namespace) -> int:
        from mlxserve_plugins.launch.command import run  # noqa: PLC0415 - rarely needed

        return run(arguments, self.options.api_key)


def _add_arguments(parser: ArgumentParser) -> None:
    from mlxserve_plugins.launch.command import add_arguments  # noqa: PLC0415 - likewise

    add_arguments(parser)
