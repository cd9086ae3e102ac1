"""``mlxserve bench``: choose a benchmark, read its flags, print what it found."""

import asyncio
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, NoReturn

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.bench.flags import Common, add_flags, read_flags
from mlxserve_plugins.bench.prefix import PrefixFlags, prefix
from mlxserve_plugins.bench.report import Report, show
from mlxserve_plugins.bench.restart import RestartFlags, restart
from mlxserve_plugins.bench.serving import ServeFlags, serve
from mlxserve_plugins.bench.soak import SoakFlags, soak
from mlxserve_plugins.bench.speculation import SpeculationFlags, speculation

KINDS: Final[Mapping[str, type[Common]]] = {
    "serve": ServeFlags,
    "prefix": PrefixFlags,
    "restart": RestartFlags,
    "speculation": SpeculationFlags,
    "soak": SoakFlags,
}
ABOUT: Final = (
    "serve: throughput and latency by concurrency; prefix: TTFT cold and warm; "
    "restart -- FLAGS: starts mlxserve run with FLAGS and restarts it: TTFT cold, from RAM, from "
    "disk; speculation: tokens/s of copying and of free text; soak: memory under mixed traffic"
)
OWN: Final = "words"


class _Flags(ArgumentParser):
    """Reads what follows the benchmark's name."""

    def error(self, message: str) -> NoReturn:
        """Raise ``SettingError``, as the command line's own parser does."""
        raise SettingError(message.removeprefix("argument "))


def add_arguments(parser: ArgumentParser) -> None:
    """Add all flags of all benchmarks, so that they beat the server's of the same names."""
    # One positional for all: argparse takes a -- away that stands between two of them.
    parser.add_argument(OWN, nargs=REMAINDER, metavar="BENCHMARK [FLAGS] [-- FLAGS]", help=ABOUT)
    add_flags(parser, KINDS)


def run(arguments: Namespace) -> int:
    """Run the benchmark that is named and print what it found; 1 if something failed."""
    name, own, server = _split(getattr(arguments, OWN))
    parser = _Flags("mlxserve bench", add_help=False, allow_abbrev=False)
    add_flags(parser, KINDS)
    typed = {key: value for key, value in vars(arguments).items() if key != OWN}
    typed |= vars(parser.parse_args(own))
    flags = read_flags(KINDS[name], name, typed)
    return show(asyncio.run(_measured(flags, name, server)), as_json=flags.json)


def _measured(flags: Common, name: str, server: Sequence[str]) -> Coroutine[Any, Any, Report]:
    match flags:
        case RestartFlags() if server:
            return restart(flags, server)
        case RestartFlags():
            raise SettingError("say how to start the server: bench restart -- --preset demo")
        case _ if server:
            raise SettingError(f"bench {name} starts no server: nothing can follow --")
        case ServeFlags():
            return serve(flags)
        case PrefixFlags():
            return prefix(flags)
        case SpeculationFlags():
            return speculation(flags)
        case SoakFlags():
            return soak(flags)
    raise SettingError(f"unknown benchmark {name!r}")


def _split(words: Sequence[str]) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return the benchmark's name, its flags, and those of a server to start."""
    if not words or words[0] not in KINDS:
        known = ", ".join(KINDS)
        told = f"unknown benchmark {words[0]!r}" if words else "no benchmark is named"
        raise SettingError(f"{told}; known: {known}")
    at = words.index("--") if "--" in words else len(words)
    return words[0], words[1:at], words[at + 1 :]
