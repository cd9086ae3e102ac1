"""``bench compare``: mlxserve and another server on the same model, run for run, in turns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_hookspecs import CommandHost, SettingError
from mlxserve_plugins.bench.client import Ask, BenchError, connect
from mlxserve_plugins.bench.crowd import Crowd, Place, crowd
from mlxserve_plugins.bench.flags import count, flag, need_words
from mlxserve_plugins.bench.load import Prompts, prompts_for
from mlxserve_plugins.bench.pairs import Figures, Pair, Series
from mlxserve_plugins.bench.process import RUN
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.report import Plot, Report, tell
from mlxserve_plugins.bench.scenarios import (
    RESTART,
    SCENARIOS,
    Scenario,
    Sizes,
    Work,
    first_request,
)
from mlxserve_plugins.bench.sides import (
    PEER,
    Side,
    Stage,
    our_side,
    peer_of,
    peer_side,
    variables_of,
    words_of,
)

PLOTTED: Final = "tokens/s"


def scenarios(text: str) -> tuple[str, ...]:
    """Read names of scenarios with commas between them."""
    names = tuple(text.split(","))
    for name in names:
        if name not in SCENARIOS:
            raise ValueError(f"no such scenario {name!r}; known: {', '.join(SCENARIOS)}")
    return names


@frozen(kw_only=True)
class CompareFlags(Sizes):
    """What ``bench compare`` can be told; mlxserve's own flags follow after ``--``."""

    peer: str = flag(PEER, "the server to compare with", peer_of)
    peer_args: tuple[str, ...] = flag((), "flags of the peer, in one word", words_of)
    peer_env: Mapping[str, str] = flag({}, "NAME=VALUE ... of the peer's alone", variables_of)
    peer_model: str = flag("", "the peer's model; by default the folder that mlxserve loads")
    scenarios: tuple[str, ...] = flag(tuple(SCENARIOS), "what to run", scenarios)
    pairs: int = flag(3, "runs of each server: A B A B ...", count)
    exclusive: bool = flag(False, "one server up at a time, started anew for each run")
    processes: int = flag(8, "client processes", count)


@define
class Comparison:
    """One comparison while it runs.

    Attributes:
        flags: What was asked for.
        crowd: The clients.
        bar: How far it has come.
        raw: Every run's figures.
    """

    flags: CompareFlags
    crowd: Crowd
    bar: Bar
    prompts: Prompts | None = None
    raw: list[dict[str, Any]] = field(factory=list)

    async def scenario(self, name: str, sides: Sequence[Side]) -> list[Series]:
        """Run one scenario at all its levels."""
        if name == RESTART:
            return [await self._restarts(sides)]
        found = []
        async with Stage(sides, self.flags.exclusive) as stage:
            for clients in SCENARIOS[name].levels(self.flags):
                found.append(await self.level(name, sides, stage, clients))
        return found

    async def level(self, name: str, sides: Sequence[Side], stage: Stage, clients: int) -> Series:
        """Run one scenario with so many clients, in turns."""
        one = SCENARIOS[name]
        await self._prepare(one, stage, clients)
        pairs = []
        for turn in range(self.flags.pairs):
            work = self._make(one, clients)
            both = []
            for number, side in enumerate(sides):
                self.bar.now(f"{name} at {clients}, pair {turn + 1}: {side.name}")
                async with stage.on(number) as place:
                    if self.flags.exclusive:
                        await self._warm_up(one, place, clients)
                    both.append(await one.play(self.crowd, place, work))
                self._note(name, clients, turn, side, both[-1])
            pairs.append(Pair(ours=both[0], other=both[1]))
        return Series(scenario=name, clients=clients, against=sides[1].name, pairs=pairs)

    async def _prepare(self, one: Scenario, stage: Stage, clients: int) -> None:
        """Fit prompts to the tokenizer, and warm up the servers that stay up."""
        for number in range(2):
            if self.flags.exclusive and self.prompts is not None:
                return
            async with stage.on(number) as place:
                if self.prompts is None:
                    async with connect(place.url, self.flags) as server:
                        self.prompts = await prompts_for(server, self.flags.seed)
                await self._warm_up(one, place, clients)

    async def _warm_up(self, one: Scenario, place: Place, clients: int) -> None:
        # Other prompts of the same shapes: nothing of the run itself is in a cache.
        await one.play(self.crowd, place, self._make(one, clients).short())

    def _make(self, one: Scenario, clients: int) -> Work:
        assert self.prompts is not None
        return one.make(self.prompts, self.flags, clients)

    async def _restarts(self, sides: Sequence[Side]) -> Series:
        prompts, pairs = self.prompts or Prompts(), []
        for turn in range(self.flags.pairs):
            ask = Ask(prompt=prompts.text(self.flags.prompt_tokens), max_tokens=16)
            both = []
            for side in sides:
                self.bar.now(f"{RESTART}, pair {turn + 1}: {side.name}")
                async with side.command.running() as started:
                    place = side.place(started)
                    found = await first_request(place, started.began, started.ready_s, ask)
                both.append(found)
                self._note(RESTART, 1, turn, side, found)
            pairs.append(Pair(ours=both[0], other=both[1]))
        return Series(scenario=RESTART, clients=1, against=sides[1].name, pairs=pairs)

    def _note(self, name: str, clients: int, turn: int, side: Side, found: Figures) -> None:
        who = {"scenario": name, "clients": clients, "pair": turn + 1, "server": side.name}
        self.raw.append({**who, **found})


async def compare(flags: CompareFlags, words: Sequence[str], host: CommandHost) -> Report:
    """Run every scenario that is asked for."""
    need_words("compare", words)
    with TemporaryDirectory(prefix="mlxserve-bench-") as folder:
        peer = None
        if any(SCENARIOS[name].rival is None for name in flags.scenarios):
            model = Path(flags.peer_model) if flags.peer_model else host.model_folder(words)
            peer = peer_side(model, flags.peer_args, flags.peer_env, Path(folder))
        with crowd(flags.processes) as clients:
            return await measure(flags, words, peer, Path(folder), clients)


async def measure(
    flags: CompareFlags,
    words: Sequence[str],
    peer: Side | None,
    folder: Path,
    clients: Crowd,
    run: Sequence[str] = RUN,
) -> Report:
    """Run the scenarios with the servers given.

    Args:
        flags: What was asked for.
        words: Flags of mlxserve.
        peer: The other server, where a scenario wants it.
        folder: Where logs go.
        clients: Who asks.
        run: What starts mlxserve.
    """
    series: list[Series] = []
    problems: list[str] = []
    levels = [(name, level) for name in flags.scenarios for level in SCENARIOS[name].levels(flags)]
    with Bar(2 * flags.pairs * len(levels)) as bar:
        one = Comparison(flags, clients, bar)
        for name in flags.scenarios:
            what = SCENARIOS[name]
            ours = our_side(words, what.ours, folder, run, flags.api_key)
            other = peer
            if what.rival is not None:
                other = our_side(words, what.rival, folder, run, flags.api_key)
            if other is None:
                raise SettingError(f"{name} needs a peer")
            try:
                found = await one.scenario(name, (ours, other))
            except BenchError as error:  # hours of the other scenarios are not to be lost with it
                problems.append(f"{name} came to nothing: {error}")
                tell(problems[-1])
                continue
            series += found
            for level in found:
                _tell(level)
    if not series:
        raise BenchError(problems[-1])
    return _report(flags, series, one.raw, problems)


def _report(
    flags: CompareFlags,
    series: Sequence[Series],
    raw: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
) -> Report:
    mode = "one server up at a time" if flags.exclusive else "both up, one under load at a time"
    notes = [
        "speedup: how many times better mlxserve is, of each pair; median, least, most. "
        "Below 1 the other one is better",
        "refused, failed: requests of mlxserve / of the other, of so many each; rates are of what "
        "was answered",
        *(f"{name}: {SCENARIOS[name].about}{_own(SCENARIOS[name])}" for name in flags.scenarios),
        *problems,
    ]
    title = f"mlxserve against {flags.peer}, {flags.pairs} pairs of runs, {mode}"
    rows = [row for one in series for row in one.rows()]
    ours_failed = any(pair.ours.get("failed") for one in series for pair in one.pairs)
    return Report(
        title=title,
        rows=rows,
        notes=notes,
        raw=raw,
        plots=plots(series),
        failed=ours_failed or bool(problems),
    )


def plots(series: Sequence[Series]) -> list[Plot]:
    """Return all speedups, and rates by clients for each scenario with several levels."""
    bars = {
        f"{row['scenario']} {row['clients']}: {row['figure']}": (
            row["speedup"],
            row["least"],
            row["most"],
        )
        for one in series
        for row in one.rows()
        if row["speedup"] is not None
    }
    title = "How many times better mlxserve is: median, least, most"
    speedups = Plot(name="speedups", title=title, x="times", y="", bars=bars, level=1.0)
    return [*([speedups] if bars else []), *_rates(series)]


def _rates(series: Sequence[Series]) -> list[Plot]:
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in series:
        for row in one.rows():
            if row["figure"] == PLOTTED:
                lines = found.setdefault(one.scenario, {"mlxserve": [], one.against: []})
                for name, value in (("mlxserve", row["mlxserve"]), (one.against, row["other"])):
                    lines[name] += [] if value is None else [(one.clients, value)]
    return [
        Plot(name=f"rate-{name}", title=name, x="clients", y=PLOTTED, lines=lines)
        for name, lines in found.items()
        if any(len(points) > 1 for points in lines.values())
    ]


def _own(one: Scenario) -> str:
    return f" (mlxserve has {' '.join(one.ours)})" if one.ours else ""


def _tell(series: Series) -> None:
    for row in series.rows():
        if row["speedup"] is not None:
            tell(
                f"{row['scenario']} at {row['clients']}, {row['figure']}: speedup "
                f"{row['speedup']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
            )
