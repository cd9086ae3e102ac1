import json
import random
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import CommandHost, SettingError
from mlxserve_plugins.bench import Bench
from mlxserve_plugins.bench.client import Ask, BenchError, connect
from mlxserve_plugins.bench.figures import Goals, Trace
from mlxserve_plugins.bench.flags import Common
from mlxserve_plugins.bench.load import Prompts, prompts_for
from mlxserve_plugins.bench.process import Command
from mlxserve_plugins.bench.report import Report, as_text
from mlxserve_plugins.bench.restart import RestartFlags, measure
from mlxserve_plugins.bench.speculation import copied
from mlxserve_plugins.bench.tasks import TASKS, VARIANTS

from .fake_engine import FakeHost
from .fake_server import Behaviour, serving

FAKE = (sys.executable, str(Path(__file__).with_name("fake_server.py")))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bench(*words: str, host: CommandHost | None = None) -> int:
    """Run ``mlxserve bench`` with ``words``."""
    (command,) = Bench().commands(host or FakeHost())
    parser = ArgumentParser(add_help=False)
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def rows(capsys: pytest.CaptureFixture[str]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return found


def test_serve_gives_a_row_per_level_and_server(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = stack.enter_context(serving(Behaviour()))
    slow = stack.enter_context(serving(Behaviour(interval=0.02)))
    words = ("--concurrency", "1,3", "--requests", "4", "--max-tokens", "6", "--repeats", "2")
    status = bench("serve", "--url", quick, "--baseline-url", f"{slow}/v1/", *words, "--json")
    assert status == 0
    found = rows(capsys)
    assert [(row["server"], row["concurrent"]) for row in found] == [
        (quick, 1), (slow, 1), (quick, 3), (slow, 3),
    ]  # fmt: skip
    assert all(row["tokens"] == 6 and row["failed"] == 0 for row in found)
    assert [row["x"] for row in found[::2]] == [1.0, 1.0]
    assert all(row["x"] > 1.5 and row["itl_p50_ms"] >= 20 for row in found[1::2])


def test_serve_does_not_count_its_warm_up(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour = Behaviour()
    url = stack.enter_context(serving(behaviour))
    bench("serve", "--url", url, "--concurrency", "2", "--requests", "3", "--ttft-slo", "1")
    assert len(behaviour.bodies) == 2 + (1 + 2) + 3  # hello and fit, warm-up, measured
    assert "goodput/s" in capsys.readouterr().out


@pytest.mark.parametrize(("shared", "same"), [(0, False), (16, True)], ids=["unique", "shared"])
def test_prompts_share_only_what_they_are_told_to(
    shared: int, same: bool, stack: ExitStack
) -> None:
    behaviour = Behaviour()
    url = stack.enter_context(serving(behaviour))
    words = ("--requests", "4", "--concurrency", "2", "--shared-prefix", str(shared))
    assert bench("serve", "--url", url, *words) == 0
    prompts = [body["prompt"].split() for body in behaviour.bodies[-4:]]
    assert (len({tuple(words[:16]) for words in prompts}) == 1) is same
    assert len({tuple(words[16:32]) for words in prompts}) == 4


def test_a_failed_request_is_exit_status_1(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    url = stack.enter_context(serving(Behaviour()))
    broken = stack.enter_context(serving(Behaviour(breaks=True)))
    words = ("--requests", "2", "--concurrency", "1", "--json")
    assert bench("serve", "--url", url, "--baseline-url", broken, *words) == 1
    captured = capsys.readouterr()
    assert [row["failed"] for row in json.loads(captured.out)["rows"]] == [0, 2]
    assert "2 of 2 failed, the first: it broke" in captured.err


def test_prefix_finds_the_cache(stack: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    url = stack.enter_context(serving(Behaviour()))
    assert bench("prefix", "--url", url, "--prefix-tokens", "400", "--json") == 0
    cold, warm = rows(capsys)
    assert (cold["cached_tokens"], warm["cached_tokens"]) == (0, 400)
    assert cold["of_cold"] == 1.0
    assert warm["of_cold"] < 0.6


async def test_restart_tells_disk_from_ram(tmp_path: Path) -> None:
    command = Command(
        words=("--ssd-cache-dir", str(tmp_path / "kv")), log=tmp_path / "log", run=FAKE
    )
    flags = RestartFlags(prefix_tokens=400, repeats=1, streams=2, stream_tokens=400, calm_s=0.1)
    report = await measure(flags, command)
    cached = {row["state"]: row["cached_tokens"] for row in report.rows}
    assert cached == {"cold": 0, "RAM-warm": 400, "SSD-warm": 400}
    rates = [line.split()[-3] for line in report.notes[3:]]
    assert len(rates) == 4
    assert all(float(rate) > 50 for rate in rates)


async def test_a_server_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    command = Command(words=("--fail", "yes"), log=tmp_path / "log", run=FAKE)
    with pytest.raises(BenchError, match="ended at once: mlxserve: it cannot start"):
        await measure(RestartFlags(), command)


def test_speculation_compares_two_servers_text_included(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    one = stack.enter_context(serving(Behaviour()))
    other = stack.enter_context(serving(Behaviour(reply="other")))
    words = ("--concurrency", "2", "--repeats", "1", "--max-tokens", "4", "--json")
    assert bench("speculation", "--url", one, "--baseline-url", other, *words) == 0
    found = rows(capsys)
    assert [row["task"] for row in found[::2]] == list(TASKS)
    assert {row["same_text"] for row in found[::2]} == {"yes"}
    assert {row["same_text"] for row in found[1::2]} == {"no"}


def test_what_a_reply_copies_is_counted_in_runs_of_words() -> None:
    assert copied("one two three four five", "zero one two three four") == 0.5
    assert copied("a, b", "a, b and so on") is None
    assert copied("nothing of it is there", "one two three four") == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_concurrent_requests_of_a_task_differ(task: str) -> None:
    assert len({TASKS[task](number) for number in range(VARIANTS)}) == VARIANTS


async def test_a_server_that_refuses_ignore_eos_is_asked_without(stack: ExitStack) -> None:
    behaviour = Behaviour(whole=False)
    url = stack.enter_context(serving(behaviour))
    async with connect(url, Common()) as server:
        trace = await server.checked(Ask(prompt="a b c", max_tokens=3))
    assert (trace.prompt_tokens, trace.completion_tokens, len(trace.arrivals)) == (3, 3, 3)
    assert ["ignore_eos" in body for body in behaviour.bodies] == [True, False]


async def test_a_client_that_leaves_has_what_came_until_then(stack: ExitStack) -> None:
    url = stack.enter_context(serving(Behaviour(interval=0.001)))
    async with connect(url, Common()) as server:
        trace = await server.stream(Ask(prompt="a", max_tokens=500, leave_after=2))
    assert trace.text == " word word"


async def test_prompts_fit_the_server_s_tokenizer(stack: ExitStack) -> None:
    url = stack.enter_context(serving(Behaviour()))
    async with connect(url, Common()) as server:
        assert (await prompts_for(server, 0)).tokens_per_word == 1.0
    assert len(Prompts(2.0, random.Random(0)).text(100).split()) == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no benchmark is named"),
        (("serv",), "unknown benchmark 'serv'"),
        (("serve", "--concurrency", "0"), "--concurrency 0: 0 is below 1"),
        (("serve", "--ttft-slo", "nan"), "--ttft-slo nan: nan is not a number above 0"),
        (("serve", "--pid", "1"), "bench serve has no flag --pid"),
        (("serve", "--url", "host:1"), "write http://HOST:PORT"),
        (("serve", "--", "--port", "1"), "bench serve starts no server"),
        (("serve", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("restart",), "say what to serve: bench restart -- --model MODEL"),
        (("compare",), "say what to serve"),
        (("engine",), "say what to serve"),
        (("quality",), "say what to serve"),
        (("compare", "--scenarios", "chta"), "no such scenario 'chta'; known: single, chat"),
        (("compare", "--peer", "vllm"), "no such peer; known: mlx_lm.server"),
        (("compare", "--peer-env", "X"), "--peer-env X: X is not NAME=VALUE"),
        (("report", "nowhere"), "nowhere has no JSON file of bench"),
        (("quality", "--text", "nowhere.txt", "--", "--model", "m"), "--text nowhere.txt: "),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        bench(*words)
    assert "\n" not in str(caught.value)


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(BenchError, match="does not answer"):
        bench("prefix", "--url", "http://127.0.0.1:9")


def test_a_table_has_columns_and_no_endless_digits() -> None:
    report = Report(title="T", rows=[{"a": 1.23456, "b": None}, {"a": 12345.6, "b": "x"}])
    assert as_text(report).splitlines() == ["T", "    a  b", " 1.23  -", "12346  x"]


def test_goals_are_those_of_vllm() -> None:
    trace = Trace(sent=0.0, arrivals=(0.1, 0.2, 0.5), completion_tokens=5, ended=0.5)
    assert Goals(ttft=100.0, itl=100.0).met(trace)
    assert not Goals(ttft=99.0).met(trace)
    assert not Goals(itl=99.0).met(trace)
