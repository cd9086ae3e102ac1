"""``mlxserve cache``: look after the folder while no server runs, and look into it any time."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Final

from mlxserve_hookspecs import Command
from mlxserve_plugins.ssd_tier import SsdTierOptions

ACTIONS: Final[Mapping[str, str]] = {
    "stats": "say how much is there, by rank and namespace",
    "ls": "list the files, most recently used first",
    "verify": "read every byte and name what is torn",
    "prune": "delete leftovers, what is torn or outdated, and what is over --ssd-max-size-gb",
    "clear": "delete everything",
}


def cache_command(options: SsdTierOptions) -> Command:
    """Return the command for the folder that ``options`` name."""

    def run(arguments: Namespace) -> int:
        from mlxserve_plugins.ssd_tier import upkeep  # noqa: PLC0415 - only if it is run

        act: Callable[[SsdTierOptions, bool], int] = getattr(upkeep, arguments.action)
        return act(options, arguments.json)

    return Command(
        name="cache",
        help="look after the KV blocks on disk: stats, ls, verify, prune, clear",
        add_arguments=_add_arguments,
        run=run,
    )


def _add_arguments(parser: ArgumentParser) -> None:
    about = "; ".join(f"{name}: {what}" for name, what in ACTIONS.items())
    parser.add_argument("action", choices=tuple(ACTIONS), help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")
