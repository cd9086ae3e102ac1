import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_plugins.bench.client import Ask
from mlxserve_plugins.bench.compare import CompareFlags, Comparison, compare, measure, plots
from mlxserve_plugins.bench.crowd import LEAD_S, Crowd, Place, crowd, share
from mlxserve_plugins.bench.figures import Trace
from mlxserve_plugins.bench.pairs import Pair, Series, figures, gaps_within, speedup
from mlxserve_plugins.bench.process import Command
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.scenarios import SCENARIOS
from mlxserve_plugins.bench.sides import Side, our_side, peer_side, variables_of, words_of

from .fake_engine import FakeHost
from .fake_server import Behaviour, serving

FAKE = (sys.executable, str(Path(__file__).with_name("fake_server.py")))
QUICK = ("--interval", "0.001")
SLOW = ("--interval", "0.02")


@pytest.fixture(scope="module")
def clients() -> Iterator[Crowd]:
    """Return two client processes, which take a while to come."""
    with crowd(2) as found:
        yield found


def peer(folder: Path, *words: str) -> Side:
    command = Command(words=words, log=folder / "peer.log", run=FAKE, ready="/health")
    return Side(name="peer", command=command)


def small(*scenarios: str, **changes: Any) -> CompareFlags:
    sizes: dict[str, Any] = {
        "concurrency": (2,), "prompt_tokens": 8, "max_tokens": 6, "shared_tokens": 20, "turns": 3,
        "long_tokens": 30, "decoders": 2, "decoder_tokens": 20, "burst": 3, "pairs": 2,
        "processes": 2, "seed": 1,
    }  # fmt: skip
    return CompareFlags(scenarios=scenarios, **{**sizes, **changes})


def by_figure(rows: Any) -> Mapping[str, Mapping[str, Any]]:
    return {row["figure"]: row for row in rows}


async def test_a_slower_peer_is_slower_in_every_pair(tmp_path: Path, clients: Crowd) -> None:
    report = await measure(small("single"), QUICK, peer(tmp_path, *SLOW), tmp_path, clients, FAKE)
    rows = by_figure(report.rows)
    assert rows["decode/s"]["speedup"] > 3
    assert rows["itl_p50_ms"]["least"] > 3
    assert rows["tokens/s"]["pairs"] == 2
    assert rows["tokens/s"]["least"] <= rows["tokens/s"]["speedup"] <= rows["tokens/s"]["most"]
    assert {row["against"] for row in report.rows} == {"peer"}
    # A B A B
    assert [one["server"] for one in report.raw] == ["mlxserve", "peer"] * 2
    assert not report.failed


async def test_an_equal_peer_is_equal(tmp_path: Path, clients: Crowd) -> None:
    report = await measure(
        small("single", pairs=3), SLOW, peer(tmp_path, *SLOW), tmp_path, clients, FAKE
    )
    assert by_figure(report.rows)["decode/s"]["speedup"] == pytest.approx(1.0, abs=0.3)


@define
class Standing:
    """A stage whose servers run in this process."""

    urls: Sequence[str]
    order: list[int] = field(factory=list)

    @asynccontextmanager
    async def on(self, number: int) -> AsyncIterator[Place]:
        self.order.append(number)
        yield Place(url=self.urls[number])


async def test_both_get_the_same_requests_in_turns_and_others_to_warm_up(
    tmp_path: Path, clients: Crowd
) -> None:
    ours, other = Behaviour(), Behaviour()
    flags = small("chat", pairs=2, requests=1)
    with serving(ours) as first, serving(other) as second:
        stage: Any = Standing([first, second])
        with Bar(4) as bar:
            one = Comparison(flags, clients, bar)
            await one.level("chat", (peer(tmp_path), peer(tmp_path)), stage, 2)
    assert stage.order == [0, 1] * 3

    def sent(server: Behaviour) -> list[list[str]]:
        """The prompts of warm-up and pairs: two clients, one request each."""
        prompts = [body["prompt"] for body in server.bodies][-6:]
        return [sorted(prompts[at : at + 2]) for at in (0, 2, 4)]

    (warm, *pairs), (other_warm, *other_pairs) = sent(ours), sent(other)
    assert pairs == other_pairs
    assert warm != other_warm
    assert len({prompt for several in (warm, other_warm, *pairs) for prompt in several}) == 8
    # Neither is told a model, or to go on past the end of its reply.
    assert not any({"model", "ignore_eos"} & body.keys() for body in other.bodies)


async def test_a_scenario_that_comes_to_nothing_leaves_the_others(
    tmp_path: Path, clients: Crowd
) -> None:
    broken = peer(tmp_path, "--fail", "yes")
    flags = small("single", "kv8", pairs=1)
    report = await measure(flags, QUICK, broken, tmp_path, clients, FAKE)
    assert report.failed
    assert {row["scenario"] for row in report.rows} == {"kv8"}
    assert any(note.startswith("single came to nothing: the server ended") for note in report.notes)


async def test_exclusive_starts_each_for_its_own_run(
    tmp_path: Path, clients: Crowd, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = small("single", exclusive=True, pairs=1)
    await measure(flags, QUICK, peer(tmp_path, *SLOW), tmp_path, clients, FAKE)
    starts = [line for line in capsys.readouterr().err.splitlines() if "starting" in line]
    assert ["--interval 0.02" in line for line in starts] == [False, False, True]


async def test_kv8_is_mlxserve_against_itself_and_needs_no_peer(
    tmp_path: Path, clients: Crowd
) -> None:
    report = await measure(small("kv8", pairs=1), QUICK, None, tmp_path, clients, FAKE)
    assert {row["clients"] for row in report.rows} == {1, 2}
    assert {row["against"] for row in report.rows} == {"mlxserve --kv-bits 16"}
    assert {plot.name for plot in report.plots} == {"speedups", "rate-kv8"}


async def test_restart_counts_from_the_start_of_the_process(tmp_path: Path, clients: Crowd) -> None:
    report = await measure(
        small("restart", pairs=1), QUICK, peer(tmp_path, *SLOW), tmp_path, clients, FAKE
    )
    rows = by_figure(report.rows)
    assert rows.keys() == {"ready_ms", "first_request_ttft_ms", "start_to_first_text_ms"}
    ready, first = rows["ready_ms"]["mlxserve"], rows["first_request_ttft_ms"]["mlxserve"]
    assert rows["start_to_first_text_ms"]["mlxserve"] >= ready + first


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("chat", {"tokens/s", "ttft_p50_ms", "itl_p99_ms"}),
        ("shared-prefix", {"tokens/s", "ttft_p50_ms"}),
        ("agent", {"ttft_p50_ms", "decode/s", "conversation_ms"}),
        ("long-short", {"itl_p99_while_joining_ms", "itl_p99_ms", "long_ttft_ms"}),
        ("copy", {"tokens/s"}),
        ("burst", {"ttft_p50_ms", "ttft_p99_ms"}),
    ],
)
async def test_every_scenario_runs_on_both(
    scenario: str,
    expected: set[str],
    tmp_path: Path,
    clients: Crowd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlxserve_plugins.bench.scenarios.SETTLE_S", 0.5)
    pace = SLOW if scenario == "long-short" else QUICK
    flags = small(scenario, pairs=1, decoder_tokens=60)
    report = await measure(flags, pace, peer(tmp_path, *pace), tmp_path, clients, FAKE)
    rows = by_figure(report.rows)
    assert expected <= rows.keys()
    for name in expected:
        assert rows[name]["speedup"] is not None, name
    assert {row["failed"].partition(" of ")[0] for row in report.rows} == {"0 / 0"}


async def test_refused_requests_are_counted_beside_the_rate_of_the_others(
    clients: Crowd,
) -> None:
    with serving(Behaviour()) as url:
        asks = [Ask(prompt="a b", max_tokens=3) for _ in range(4)]
        good = await clients.ask(Place(url=url), asks, 4)
        gone = await clients.ask(Place(url="http://127.0.0.1:9"), asks[:2], 2)
    found = figures([*good, *gone])
    assert (found["refused"], found["failed"]) == (2, 0)
    assert found["tokens/s"] == figures(good)["tokens/s"]
    series = Series(
        scenario="chat", clients=4, against="peer", pairs=[Pair(ours=figures(good), other=found)]
    )
    assert {row["refused"] for row in series.rows()} == {"0 / 2 of 4"}


async def test_clients_of_all_processes_begin_at_one_moment(clients: Crowd) -> None:
    with serving(Behaviour()) as url:
        asks = [Ask(prompt="a b", max_tokens=2) for _ in range(6)]
        before = time.perf_counter()
        traces = await clients.ask(Place(url=url), asks, 6)
    assert len(traces) == 6
    first = min(trace.sent for trace in traces)
    assert first >= before + LEAD_S
    assert max(trace.sent for trace in traces) < first + 1.0


@given(st.integers(0, 50), st.integers(1, 12), st.integers(1, 12))
def test_shares_have_every_request_and_every_client(
    count: int, clients: int, processes: int
) -> None:
    asks = [Ask(prompt=str(number), max_tokens=1) for number in range(count)]
    shares = share(asks, clients, processes)
    assert sorted(a.prompt for part, _ in shares for a in part) == sorted(a.prompt for a in asks)
    assert sum(number for _, number in shares) == clients
    assert len(shares) == min(clients, processes)
    # No client of one process waits while those of another have much left.
    loads = [len(part) / number for part, number in shares]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize(
    ("name", "ours", "other", "expected"),
    [
        ("tokens/s", 200.0, 100.0, 2.0),
        ("ttft_p50_ms", 50.0, 100.0, 2.0),
        ("ttft_p50_ms", 100.0, 50.0, 0.5),
        ("tokens/s", None, 100.0, None),
        ("ttft_p50_ms", 50.0, None, None),
    ],
)
def test_above_1_is_better_for_rates_and_for_times(
    name: str, ours: float | None, other: float | None, expected: float | None
) -> None:
    assert speedup(name, ours, other) == expected


def test_a_pair_without_a_figure_leaves_the_others() -> None:
    pairs = [
        Pair(ours={"tokens/s": 30.0}, other={"tokens/s": 10.0}),
        Pair(ours={"tokens/s": 30.0}, other={"tokens/s": None}),
        Pair(ours={"tokens/s": 20.0}, other={"tokens/s": 10.0}),
    ]
    (row,) = Series(scenario="chat", clients=8, against="peer", pairs=pairs).rows()
    assert (row["speedup"], row["least"], row["most"], row["pairs"]) == (2.5, 2.0, 3.0, 2)


def test_only_gaps_of_the_time_of_joining_count() -> None:
    trace = Trace(sent=0.0, arrivals=(1.0, 2.0, 4.0, 4.5, 6.0), ended=6.0)
    assert gaps_within([trace], 3.0, 4.2) == [2.0, 0.5]
    assert gaps_within([trace], 7.0, 8.0) == []


def test_rates_of_several_levels_are_a_plot() -> None:
    def series(clients: int) -> Series:
        pair = Pair(ours={"tokens/s": 10.0 * clients}, other={"tokens/s": 5.0 * clients})
        return Series(scenario="chat", clients=clients, against="peer", pairs=[pair])

    speedups, plot = plots([series(8), series(32)])
    assert speedups.bars == {
        "chat 8: tokens/s": (2.0, 2.0, 2.0),
        "chat 32: tokens/s": (2.0, 2.0, 2.0),
    }
    assert plot.lines == {"mlxserve": [(8, 80.0), (32, 320.0)], "peer": [(8, 40.0), (32, 160.0)]}


def test_a_user_s_own_folder_of_kv_is_left_alone(tmp_path: Path) -> None:
    ours = our_side(("--model", "m"), ("--kv-bits", "8"), tmp_path, FAKE)
    assert ours.command.words == ("--model", "m", "--kv-bits", "8")
    assert ours.command.variables == {"MLXSERVE_SSD_CACHE_DIR": str(tmp_path / "kv-kv-bits-8")}


def test_the_peer_has_its_flags_and_its_environment(tmp_path: Path) -> None:
    variables = variables_of("LD_PRELOAD=/lib/blas.so 'A=b c'")
    assert variables == {"LD_PRELOAD": "/lib/blas.so", "A": "b c"}
    words = words_of("--decode-concurrency 64")
    command = peer_side(tmp_path, words, variables, tmp_path).command
    assert command.words[-2:] == ("--decode-concurrency", "64")
    assert command.variables == variables
    assert command.run[1:] == ("-m", "mlx_lm", "server")


async def test_the_peer_serves_the_folder_that_mlxserve_would_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Side | None] = []

    async def note(flags: Any, words: Any, side: Side | None, *_: object) -> Any:
        seen.append(side)

    monkeypatch.setattr("mlxserve_plugins.bench.compare.measure", note)
    host = FakeHost(folder=tmp_path / "weights")
    words = ("--preset", "demo")
    await compare(small("single"), words, host)
    await compare(small("single", peer_model="other"), words, host)
    await compare(small("kv8"), words, host)
    first, second, third = seen
    assert first is not None
    assert second is not None
    assert first.command.words[:2] == ("--model", str(tmp_path / "weights"))
    assert second.command.words[:2] == ("--model", "other")
    assert third is None
    assert host.asked == [words]


def test_scenarios_are_those_of_the_documentation() -> None:
    assert set(SCENARIOS) == {
        "single", "chat", "shared-prefix", "agent", "long-short", "copy", "kv8", "restart", "burst",
    }  # fmt: skip
