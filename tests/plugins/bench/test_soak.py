import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlxserve_hookspecs import MlxserveError
from mlxserve_plugins.bench.figures import Trace
from mlxserve_plugins.bench.soak import KINDS, SoakFlags, soak, unexpected
from mlxserve_plugins.bench.trend import (
    Sample,
    full_after,
    judge,
    rows,
    said,
    slope,
    trend,
)
from mlxserve_plugins.bench.watch import read_gauges, resident

from .fake_server import Behaviour, serving

FAKE = (sys.executable, str(Path(__file__).with_name("fake_server.py")))
MB = 10**6


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_soak_counts_every_kind_and_finds_nothing_wrong(stack: ExitStack) -> None:
    url = stack.enter_context(serving(Behaviour(interval=0.001)))
    flags = SoakFlags(
        url=url, minutes=0.03, clients=4, pid=os.getpid(), warmup_s=0, sample_s=0.1, seed=1
    )
    report = await soak(flags)
    assert not report.failed
    assert all(row["answered"] + row["refused"] > 0 for row in report.rows)
    assert {row["kind"] for row in report.rows} == set(KINDS)
    refused = {row["kind"] for row in report.rows if row["refused"]}
    assert refused == {"malformed", "impossible"}
    figures = {row["figure"]: row for row in report.also}
    assert figures.keys() == {"memory_MB", "threads", "open_files", "used_blocks", "cached_blocks"}
    assert figures["cached_blocks"]["last_third"] > 0
    assert report.notes[0].startswith("resident memory: ")
    assert len(report.raw) >= 2
    assert {plot.name for plot in report.plots} == {"soak-memory", "soak-blocks"}


async def test_soak_finds_a_server_that_answers_what_it_must_refuse(stack: ExitStack) -> None:
    url = stack.enter_context(serving(Behaviour(checks=False)))
    report = await soak(SoakFlags(url=url, minutes=0.01, clients=4, max_tokens=4, seed=1))
    assert report.failed
    assert any("was answered" in note for note in report.notes)


@pytest.mark.parametrize(
    ("kind", "status", "error", "wrong"),
    [
        ("reply", 200, None, False),
        ("reply", 429, "busy", False),
        ("reply", 500, "bug", True),
        ("reply", 0, "gone", True),
        ("malformed", 400, "no", False),
        ("malformed", 500, "bug", True),
        ("impossible", 200, None, True),
    ],
)
def test_what_a_soak_takes_for_wrong(
    kind: str, status: int, error: str | None, wrong: bool
) -> None:
    assert unexpected(kind, Trace(sent=0.0, status=status, error=error)) is wrong


async def test_soak_finds_a_row_that_is_in_use_when_nobody_is_served(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxserve_plugins.bench.watch.REST_S", 0.3)
    url = stack.enter_context(serving(Behaviour(leaves_behind=True)))
    report = await soak(SoakFlags(url=url, minutes=0.005, clients=2, max_tokens=4, seed=1))
    assert report.failed
    (note,) = [note for note in report.notes if note.startswith("wrong: ")]
    assert "in use when nobody is served: {'active_sequences': 1, 'used_blocks': 1}" in note


async def test_soak_leaves_out_what_is_not_installed(stack: ExitStack) -> None:
    url = stack.enter_context(serving(Behaviour(schemas=False)))
    report = await soak(SoakFlags(url=url, minutes=0.005, clients=2, max_tokens=4, seed=1))
    assert not report.failed
    assert "schema" not in {row["kind"] for row in report.rows}
    assert "left out, this server refuses it: schema" in report.notes


async def test_soak_starts_a_server_with_everything_on() -> None:
    flags = SoakFlags(minutes=0.02, clients=2, max_tokens=4, warmup_s=0, sample_s=0.1, seed=1)
    report = await soak(flags, ("--interval", "0.001"), FAKE)
    assert not report.failed
    assert {row["figure"] for row in report.also} >= {"memory_MB", "threads", "open_files"}


def test_resident_memory_is_that_of_the_process() -> None:
    assert 10**6 < resident(os.getpid()) < 10**11


def test_a_missing_process_is_one_line() -> None:
    with pytest.raises(MlxserveError, match="cannot be read: is it there"):
        resident(2**22 + 1)


def test_gauges_are_read_without_labels_and_the_disk_s_bytes_by_theirs() -> None:
    text = (
        'used_blocks 3.0\nmlxserve_cache_tier{tier="ssd",figure="bytes"} 4096\n'
        'mlxserve_cache_tier{tier="ram",figure="bytes"} 7\n'
    )
    assert read_gauges(text) == {"used_blocks": 3.0, "disk_bytes": 4096.0}


def run(*, blocks: int, growth: float = 0.0, seconds: int = 300, rate: int = 10) -> list[Sample]:
    """A server whose cache fills by ``rate`` blocks a second, a megabyte each, and that grows."""
    return [
        Sample(
            seconds=float(second),
            memory=MB * (500 + min(rate * second, blocks)) + int(growth * MB * second),
            threads=9,
            files=20,
            used_blocks=0.0,
            cached_blocks=float(min(rate * second, blocks)),
        )
        for second in range(seconds)
    ]


def test_a_cache_that_fills_is_told_from_growth() -> None:
    verdict = judge(run(blocks=1000), 0.0)
    assert verdict is not None
    assert verdict.whole.growth > 0.2
    assert verdict.full_after == pytest.approx(97.0)
    assert verdict.since_full is not None
    assert abs(verdict.since_full.growth) < 0.01
    assert "the caches were full after 97 s; from then on" in said(verdict)[1]


def test_growth_beyond_full_caches_shows() -> None:
    verdict = judge(run(blocks=100, growth=1.0), 0.0)
    assert verdict is not None
    assert verdict.since_full is not None
    assert verdict.since_full.growth > 0.2
    assert verdict.since_full.an_hour == pytest.approx(3600 * MB, rel=0.01)


def test_caches_that_fill_until_the_end_prove_nothing() -> None:
    verdict = judge(run(blocks=10**6), 0.0)
    assert verdict is not None
    assert verdict.full_after is None
    assert "growth cannot be told from filling" in said(verdict)[1]


def test_a_server_that_tells_no_blocks_has_no_time_of_filling() -> None:
    samples = [Sample(seconds=float(second), memory=100 * MB) for second in range(40)]
    assert full_after(samples) is None
    assert [row["figure"] for row in rows(samples, 0.0)] == ["memory_MB"]


def test_thirds_leave_warm_up_out() -> None:
    samples = [
        Sample(seconds=float(second), memory=MB * (50 if second < 5 else 100))
        for second in range(40)
    ]
    samples += [Sample(seconds=float(second), memory=MB * 102) for second in range(40, 60)]
    line = said(judge(samples, 5.0))[0]
    assert "100.0 MB in the first third, 102.0 MB in the last (+2.00 %)" in line
    assert "100.0 to 102.0 MB" in line


def test_what_was_not_watched_has_no_verdict() -> None:
    assert judge([], 0.0) is None
    assert trend([(0.0, 1.0), (1.0, 2.0)]) is None
    assert slope([(1.0, 5.0), (1.0, 7.0)]) == 0.0
