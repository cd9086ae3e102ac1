from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from mlxserve_hookspecs import EngineStatus, Iteration, Verdict
from mlxserve_plugins.dashboard import Dashboard
from mlxserve_plugins.dashboard.recorder import (
    FIRST_TOKENS,
    FORGOTTEN_S,
    HISTORY_S,
    RATE_S,
    RECENT_S,
    STEPS,
    Recorder,
    quantiles,
    rate,
    recent,
)

from ..scripted import finish_of
from .conftest import Clock

IDLE = EngineStatus(ready=True)


def iteration(decoded: int = 4, *, seconds: float = 0.1, prefilled: int = 0) -> Iteration:
    status = EngineStatus(ready=True, running=decoded, waiting=2, used_blocks=9)
    return Iteration(seconds=seconds, prefilled=prefilled, decoded=decoded, status=status)


def test_nothing_is_kept_while_nobody_looks(dashboard: Dashboard) -> None:
    dashboard.iteration_finished(iteration())
    dashboard.first_token(0.2)
    dashboard.request_finished(0, finish_of())
    dashboard.drafts_verified([Verdict(uid=1, drafted=4, accepted=2)])
    assert dashboard.recorder is None
    view = dashboard.look().view(IDLE)
    assert (view["ttft_s"], view["itl_s"], view["ended"]) == ({"count": 0}, {"count": 0}, {})
    assert view["drafts"] == {"drafted": 0, "accepted": 0}


def test_recording_ends_some_time_after_the_last_look(dashboard: Dashboard, clock: Clock) -> None:
    recorder = dashboard.look()
    clock.now += FORGOTTEN_S
    dashboard.iteration_finished(iteration())
    assert dashboard.recorder is recorder
    clock.now += 1
    dashboard.iteration_finished(iteration())
    assert dashboard.recorder is None


def test_a_look_after_a_long_pause_starts_anew(dashboard: Dashboard, clock: Clock) -> None:
    first = dashboard.look()
    first.first_token(clock.now, 1.0)
    assert dashboard.look() is first
    clock.now += FORGOTTEN_S + 1
    assert dashboard.look().view(IDLE)["ttft_s"] == {"count": 0}


def test_what_is_kept_is_bounded() -> None:
    recorder = Recorder(began=0.0)
    for at in range(max(STEPS, FIRST_TOKENS, HISTORY_S) + 500):
        recorder.iterated(at / 1000, iteration(1))
        recorder.first_token(at / 1000, 0.1)
    recorder.looked = at / 1000
    view = recorder.view(IDLE)
    assert (view["itl_s"]["count"], view["ttft_s"]["count"]) == (STEPS, FIRST_TOKENS)
    assert {len(line) for line in view["history"].values()} == {HISTORY_S}


def test_view_shows_what_happened(dashboard: Dashboard, clock: Clock) -> None:
    dashboard.look().view(IDLE)
    clock.now += 1
    dashboard.iteration_finished(iteration(6, seconds=0.5, prefilled=30))
    dashboard.first_token(0.25)
    dashboard.request_finished(0, finish_of(prompt=40, cached={"ram": 16, "ssd": 8}))
    dashboard.request_finished(1, finish_of(prompt=40, cached={"ram": 16}, reason="length"))
    dashboard.drafts_verified([Verdict(uid=1, drafted=4, accepted=3)])
    clock.now += 1
    view = dashboard.look().view(IDLE)
    assert view["tokens_per_s"] == 3.0
    assert view["prefill_per_s"] == 15.0
    assert view["ttft_s"] == {"count": 1, "p50": 0.25, "p95": 0.25, "p99": 0.25}
    assert view["itl_s"] == {"count": 6, "p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert view["ended"] == {"stop": 1, "length": 1}
    assert view["prompts"] == {"tokens": 40, "cached": {"ram": 16, "ssd": 8}}
    assert view["drafts"] == {"drafted": 4, "accepted": 3}
    assert view["history"]["decoded"][-3:] == [0, 6, 0]
    assert view["history"]["running"][-4:] == [None, 0, 6, 0]
    assert view["history"]["waiting"][-2:] == [2, 0]
    assert view["history"]["used_blocks"][-2:] == [9, 0]


def test_gauges_are_unknown_where_nothing_was_seen(dashboard: Dashboard, clock: Clock) -> None:
    dashboard.look().view(IDLE)
    clock.now += 3
    history = dashboard.look().view(IDLE)["history"]
    assert history["running"][-4:] == [0, None, None, 0]
    assert history["decoded"][-4:] == [0, 0, 0, 0]


def test_a_prefill_without_replies_is_no_time_between_tokens(dashboard: Dashboard) -> None:
    dashboard.look()
    dashboard.iteration_finished(iteration(0, prefilled=512))
    assert dashboard.look().view(IDLE)["itl_s"] == {"count": 0}


def test_percentiles_count_each_token() -> None:
    values = [(0.0, 0.01, 97), (0.0, 0.2, 2), (0.0, 3.0, 1)]
    assert quantiles(values) == {"count": 100, "p50": 0.01, "p95": 0.01, "p99": 0.2}


def test_old_latencies_do_not_count() -> None:
    values = [(0.0, 9.0, 1), (10.0, 1.0, 1)]
    assert recent(values, RECENT_S + 5) == [(10.0, 1.0, 1)]


@pytest.mark.parametrize(
    ("now", "since", "expected"),
    [(10, 0, 50 / RATE_S), (10, 8, 10.0), (10, 10, 10.0)],
    ids=["long since", "two seconds", "just begun"],
)
def test_rate_is_that_of_the_seconds_that_are_over(now: int, since: int, expected: float) -> None:
    amounts = [(at, 10) for at in range(now + 1)]
    assert rate(amounts, now, since) == expected


def test_looking_while_the_engine_writes_is_safe() -> None:
    recorder, over = Recorder(began=0.0), Event()

    def write() -> int:
        count = 0
        while not over.is_set():
            count += 1
            recorder.iterated(count / 100, iteration(1))
            recorder.first_token(count / 100, 0.1)
            recorder.finished(0, finish_of(cached={f"tier-{count % 7}": 1}))
        return count

    with ThreadPoolExecutor() as pool:
        written = pool.submit(write)
        try:
            views = [recorder.view(IDLE) for _ in range(50)]
        finally:
            over.set()
        assert written.result(10) >= views[-1]["ended"].get("stop", 0) >= 0
