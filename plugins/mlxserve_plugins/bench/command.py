"""``mlxserve bench``: choose a benchmark, read its flags, print what it found."""

import asyncio
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from attrs import evolve, frozen

from mlxserve_hookspecs import CommandHost, SettingError
from mlxserve_plugins.bench.compare import CompareFlags, compare
from mlxserve_plugins.bench.facts import about
from mlxserve_plugins.bench.flags import Common, add_flags, read_flags
from mlxserve_plugins.bench.overhead import OverheadFlags, overhead
from mlxserve_plugins.bench.plots import draw, need_matplotlib
from mlxserve_plugins.bench.prefix import PrefixFlags, prefix
from mlxserve_plugins.bench.quality import QualityFlags, quality
from mlxserve_plugins.bench.readme import ReportFlags, write_readme
from mlxserve_plugins.bench.report import Report, save, show, tell
from mlxserve_plugins.bench.restart import RestartFlags, restart
from mlxserve_plugins.bench.serving import ServeFlags, serve
from mlxserve_plugins.bench.soak import SoakFlags, soak
from mlxserve_plugins.bench.speculation import SpeculationFlags, speculation
from mlxserve_plugins.bench.steps import EngineFlags, engine

OWN: Final = "words"


@frozen
class Kind:
    """A benchmark.

    Attributes:
        flags: Its settings.
        about: What it measures, in a few words.
        run: Measures; takes the settings, the words after ``--`` and what the server offers.
        starts: Whether it starts servers or an engine, with the words after ``--``.
    """

    flags: type[Common]
    about: str
    run: Callable[[Any, Sequence[str], CommandHost], Report | Coroutine[Any, Any, Report]]
    starts: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    "serve": Kind(
        ServeFlags, "throughput and latency by concurrency", lambda flags, _, __: serve(flags)
    ),
    "prefix": Kind(PrefixFlags, "TTFT cold and warm", lambda flags, _, __: prefix(flags)),
    "restart": Kind(
        RestartFlags,
        "starts mlxserve run with FLAGS and restarts it: TTFT cold, from RAM, from disk",
        lambda flags, words, _: restart(flags, words),
        starts=True,
    ),
    "speculation": Kind(
        SpeculationFlags,
        "tokens/s of copying and of free text",
        lambda flags, _, __: speculation(flags),
    ),
    "soak": Kind(
        SoakFlags,
        "memory, blocks, threads and files under mixed traffic; with FLAGS it starts the server",
        lambda flags, words, _: soak(flags, words),
        starts=True,
    ),
    "compare": Kind(
        CompareFlags,
        "mlxserve and mlx_lm.server on the same model, in turns",
        compare,
        starts=True,
    ),
    "engine": Kind(EngineFlags, "decode steps without a server", engine, starts=True),
    "overhead": Kind(
        OverheadFlags,
        "the engine's own time, by queue and cached blocks, without a server",
        overhead,
        starts=True,
    ),
    "quality": Kind(
        QualityFlags,
        "what quantized KV changes: perplexity, KL divergence, flips",
        lambda flags, words, _: quality(flags, words),
        starts=True,
    ),
    "report": Kind(
        ReportFlags,
        "writes a README of the JSON files in a folder",
        lambda f, _, __: write_readme(f),
    ),
}
ABOUT: Final = "; ".join(
    f"{name}{' -- FLAGS' if kind.starts else ''}: {kind.about}" for name, kind in KINDS.items()
)


class _Flags(ArgumentParser):
    """Reads what follows the benchmark's name."""

    def error(self, message: str) -> NoReturn:
        """Raise ``SettingError``, as the command line's own parser does."""
        raise SettingError(message.removeprefix("argument "))


def add_arguments(parser: ArgumentParser) -> None:
    """Add all flags of all benchmarks, so that they beat the server's of the same names."""
    # One positional for all: argparse takes a -- away that stands between two of them.
    parser.add_argument(OWN, nargs=REMAINDER, metavar="BENCHMARK [FLAGS] [-- FLAGS]", help=ABOUT)
    add_flags(parser, _classes())


def run(arguments: Namespace, host: CommandHost) -> int:
    """Run the benchmark that is named and print what it found; 1 if something failed."""
    words = getattr(arguments, OWN)
    name, own, server = _split(words)
    parser = _Flags("mlxserve bench", add_help=False, allow_abbrev=False)
    add_flags(parser, _classes())
    typed = {key: value for key, value in vars(arguments).items() if key != OWN}
    typed |= vars(parser.parse_args(own))
    kind = KINDS[name]
    flags = read_flags(kind.flags, name, typed)
    if server and not kind.starts:
        raise SettingError(f"bench {name} starts no server: nothing can follow --")
    if flags.plots:
        need_matplotlib()
    found = kind.run(flags, server, host)
    report = asyncio.run(found) if isinstance(found, Coroutine) else found
    command = ("mlxserve", "bench", *words)
    report = evolve(report, about={"benchmark": name, **about(command), **report.about})
    _keep(report, flags, name)
    return show(report, as_json=flags.json)


def _keep(report: Report, flags: Common, name: str) -> None:
    if flags.output:
        tell(f"wrote {save(report, Path(flags.output), flags.name or name)}")
    if flags.plots:
        for path in draw(report.plots, Path(flags.output or ".")):
            tell(f"wrote {path}")


def _classes() -> Mapping[str, type[Common]]:
    return {name: kind.flags for name, kind in KINDS.items()}


def _split(words: Sequence[str]) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return the benchmark's name, its flags, and those of a server to start."""
    if not words or words[0] not in KINDS:
        known = ", ".join(KINDS)
        told = f"unknown benchmark {words[0]!r}" if words else "no benchmark is named"
        raise SettingError(f"{told}; known: {known}")
    at = words.index("--") if "--" in words else len(words)
    own = list(words[1:at])
    if words[0] == "report" and own and not own[0].startswith("-"):
        own.insert(0, "--folder")
    return words[0], own, words[at + 1 :]
