from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from mlxserve_hookspecs import EngineStatus, Iteration, RequestError, Verdict
from mlxserve_plugins.dashboard import Dashboard
from mlxserve_plugins.dashboard.recorder import (
    FIRST_TOKENS,
    HISTORY_S,
    RATE_S,
    STEPS,
    Recorder,
    quantiles,
    rate,
    recent,
)
from mlxserve_plugins.dashboard.totals import REASONS, RECENT_S, SLOWEST

from ..scripted import finish_of
from .conftest import Clock

IDLE = EngineStatus(ready=True)


def iteration(decoded: int = 4, *, seconds: float = 0.1, prefilled: int = 0) -> Iteration:
    status = EngineStatus(ready=True, running=decoded, waiting=2, used_blocks=9)
    return Iteration(seconds=seconds, prefilled=prefilled, decoded=decoded, status=status)


def view(dashboard: Dashboard, status: EngineStatus = IDLE) -> dict[str, Any]:
    return dashboard.recorder.view(status, dashboard.clock())


def test_counts_and_history_are_those_since_the_start(dashboard: Dashboard, clock: Clock) -> None:
    dashboard.iteration_finished(iteration())
    dashboard.first_token(0.2)
    dashboard.request_finished(0, finish_of())
    dashboard.request_refused(429, "queue_full")
    clock.now += 60
    found = view(dashboard)
    assert found["since_start"]["seconds"] == 60
    assert found["since_start"]["replies"] == {"stop": 1}
    assert found["history"]["decoded"][-61] == 4
    assert found["ttft_s"]["count"] == 1


def test_refusals_and_failures_are_told_apart_by_status_and_reason(
    dashboard: Dashboard, clock: Clock
) -> None:
    dashboard.request_refused(429, "queue_full")
    clock.now += RECENT_S + 1
    dashboard.request_refused(429, "queue_full")
    dashboard.request_refused(401, "")
    error = RequestError(status=500, message="no", code="engine_error")
    dashboard.request_finished(0, finish_of(reason="error", error=error))
    found = view(dashboard)["since_start"]
    assert found["refused"] == {"429 queue_full": 2, "401 other": 1}
    assert found["failed"] == {"500 engine_error": 1}
    assert found["recent"] == 3


def test_slowest_replies_of_late_come_first(dashboard: Dashboard, clock: Clock) -> None:
    dashboard.request_finished(0, finish_of(total=99.0))
    clock.now += RECENT_S + 1
    for total in (2.0, 9.0, 4.0, 1.0, 3.0, 8.0):
        dashboard.request_finished(0, finish_of(5, prompt=40, cached={"ram": 16}, total=total))
    clock.now += 2
    slow = view(dashboard)["slow"]
    assert [reply["total_s"] for reply in slow] == [9.0, 8.0, 4.0, 3.0, 2.0]
    assert slow[-1] == {
        "ago_s": 2.0,
        "total_s": 2.0,
        "queued_s": 0.0,
        "ttft_s": 0.25,
        "prompt_tokens": 40,
        "cached_tokens": 16,
        "reply_tokens": 5,
        "tokens_per_s": 4 / 1.75,
        "reason": "stop",
    }


def test_a_reply_without_a_token_has_no_speed(dashboard: Dashboard) -> None:
    error = RequestError(status=503, message="no", code="shutting_down")
    dashboard.request_finished(0, finish_of(0, reason="error", error=error))
    (reply,) = view(dashboard)["slow"]
    assert (reply["ttft_s"], reply["tokens_per_s"], reply["reason"]) == (
        None,
        None,
        "shutting_down",
    )


def test_what_is_kept_is_bounded() -> None:
    recorder = Recorder(began=0.0)
    for at in range(max(STEPS, FIRST_TOKENS, HISTORY_S) + 500):
        recorder.iterated(at / 1000, iteration(1))
        recorder.first_token(at / 1000, 0.1)
        recorder.finished(at / 1000, 0, finish_of())
        recorder.refused(at / 1000, 400, f"reason {at}")
    found = recorder.view(IDLE, at / 1000)
    assert (found["itl_s"]["count"], found["ttft_s"]["count"]) == (STEPS, FIRST_TOKENS)
    assert {len(line) for line in found["history"].values()} == {HISTORY_S}
    assert len(found["slow"]) == SLOWEST
    assert len(found["since_start"]["refused"]) == REASONS + 1


def test_view_shows_what_happened(dashboard: Dashboard, clock: Clock) -> None:
    view(dashboard)
    clock.now += 1
    dashboard.iteration_finished(iteration(6, seconds=0.5, prefilled=30))
    dashboard.first_token(0.25)
    dashboard.request_finished(0, finish_of(prompt=40, cached={"ram": 16, "ssd": 8}))
    dashboard.request_finished(1, finish_of(prompt=40, cached={"ram": 16}, reason="length"))
    dashboard.drafts_verified([Verdict(uid=1, drafted=4, accepted=3)])
    clock.now += 1
    found = view(dashboard)
    assert found["tokens_per_s"] == 3.0
    assert found["prefill_per_s"] == 15.0
    assert found["ttft_s"] == {"count": 1, "p50": 0.25, "p95": 0.25, "p99": 0.25}
    assert found["itl_s"] == {"count": 6, "p50": 0.5, "p95": 0.5, "p99": 0.5}
    since = found["since_start"]
    assert since["replies"] == {"stop": 1, "length": 1}
    assert (since["prompt_tokens"], since["reply_tokens"]) == (40, 8)
    assert since["cached"] == {"ram": 16, "ssd": 8}
    assert since["drafts"] == {"drafted": 4, "accepted": 3}
    assert found["history"]["decoded"][-3:] == [0, 6, 0]
    assert found["history"]["running"][-4:] == [None, 0, 6, 0]
    assert found["history"]["waiting"][-2:] == [2, 0]
    assert found["history"]["used_blocks"][-2:] == [9, 0]


def test_gauges_are_unknown_where_nothing_was_seen(dashboard: Dashboard, clock: Clock) -> None:
    view(dashboard)
    clock.now += 3
    history = view(dashboard)["history"]
    assert history["running"][-4:] == [0, None, None, 0]
    assert history["decoded"][-4:] == [0, 0, 0, 0]


def test_a_prefill_without_replies_is_no_time_between_tokens(dashboard: Dashboard) -> None:
    dashboard.iteration_finished(iteration(0, prefilled=512))
    assert view(dashboard)["itl_s"] == {"count": 0}


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
            recorder.finished(count / 100, 0, finish_of(cached={f"tier-{count % 7}": 1}))
        return count

    with ThreadPoolExecutor() as pool:
        written = pool.submit(write)
        try:
            views = [recorder.view(IDLE, 0.0) for _ in range(50)]
        finally:
            over.set()
        assert written.result(10) >= views[-1]["since_start"]["replies"].get("stop", 0) >= 0
