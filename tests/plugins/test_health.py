import time
from typing import Any

import pytest
from attrs import evolve

from mlxserve.hooks import tell
from mlxserve_hookspecs import EngineStatus, Iteration, lifecycle
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.health import (
    DEGRADED,
    FAILURES,
    RECOVERY_S,
    Failures,
    Health,
    HealthOptions,
    is_stuck,
    state_of,
    utilization,
)

from .scripted import IDLE, MakeStage, Stage


def get(stage: Stage, path: str) -> tuple[int, dict[str, Any]]:
    answer = stage.http.get(path)
    return answer.status_code, answer.json()


def iteration(failed: float, decoded: int = 1) -> Iteration:
    status = evolve(IDLE, counters={"failed_steps": failed})
    return Iteration(seconds=0.01, prefilled=0, decoded=decoded, status=status)


# -- DESIGN.md, section 10 -----------------------------------------------------------------------


def test_repeated_failures_make_readyz_503_until_a_step_goes_well(make_stage: MakeStage) -> None:
    stage = make_stage(Health())
    for failed in range(1, FAILURES):
        stage.becomes(counters={"failed_steps": float(failed)})
        assert get(stage, "/readyz")[0] == 200
    stage.becomes(counters={"failed_steps": float(FAILURES)})
    code, body = get(stage, "/readyz")
    assert (code, body["reasons"]) == (503, [f"{FAILURES} steps failed in a row"])
    assert get(stage, "/livez")[0] == 200
    tell(stage.plugins, lifecycle.iteration_finished)(iteration=iteration(FAILURES))
    assert get(stage, "/readyz")[0] == 200


def test_a_stuck_step_makes_readyz_503_by_the_watchdog_and_livez_later(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Health(HealthOptions(watchdog_timeout_s=60, liveness_timeout_s=600)))
    stage.becomes(last_step_age=59.0)
    assert get(stage, "/readyz")[0] == 200
    stage.becomes(last_step_age=61.0)
    code, body = get(stage, "/readyz")
    assert (code, body["status"]) == (503, "not_ready")
    assert body["reasons"] == ["one step has been running for 61 s"]
    assert get(stage, "/livez")[0] == 200
    assert get(stage, "/health")[1]["status"] == "overloaded"
    stage.becomes(last_step_age=601.0)
    assert get(stage, "/livez") == (
        503,
        {"status": "dead", "reasons": ["one step has been running for 601 s"]},
    )


@pytest.mark.parametrize("by", ["the signal", "the engine"])
def test_draining_makes_readyz_and_health_503_and_leaves_livez(
    make_stage: MakeStage, by: str
) -> None:
    stage = make_stage(Health())
    if by == "the signal":
        tell(stage.plugins, lifecycle.stopping)()
    else:
        stage.becomes(draining=True)
    assert get(stage, "/readyz") == (
        503,
        {"status": "not_ready", "reasons": ["the server is shutting down"]},
    )
    code, body = get(stage, "/health")
    assert (code, body["status"]) == (503, "shutting_down")
    assert get(stage, "/livez") == (200, {"status": "alive", "reasons": []})


# -- the documented states -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "code", "state"),
    [
        (0, 200, "ok"),
        (57, 200, "ok"),
        (58, 200, "degraded"),
        (79, 200, "degraded"),
        (80, 503, "overloaded"),
        (100, 503, "overloaded"),
    ],
)
def test_health_compares_utilization_with_the_threshold_of_admission(
    make_stage: MakeStage, used: int, code: int, state: str
) -> None:
    stage = make_stage(Health(), admission__memory_pressure_threshold=0.8)
    stage.becomes(used_blocks=used, total_blocks=100, cached_blocks=100 - used)
    found, body = get(stage, "/health")
    assert (found, body["status"], body["utilization"]) == (code, state, used / 100)
    assert body["threshold"] == 0.8


def test_without_admission_the_documented_threshold_holds(make_stage: MakeStage) -> None:
    stage = make_stage(Health())
    stage.becomes(used_blocks=64)
    assert get(stage, "/health")[1]["status"] == "ok"
    stage.becomes(used_blocks=65)
    assert get(stage, "/health")[1]["status"] == "degraded"
    stage.becomes(used_blocks=90)
    assert get(stage, "/health")[1]["status"] == "overloaded"


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_states_follow_each_other_at_72_percent_and_all_of_the_threshold(threshold: float) -> None:
    below = 1 - 1e-9
    assert state_of(DEGRADED * threshold * below, threshold, serving=True) == "ok"
    assert state_of(DEGRADED * threshold, threshold, serving=True) == "degraded"
    assert state_of(threshold * below, threshold, serving=True) == "degraded"
    assert state_of(threshold, threshold, serving=True) == "overloaded"
    assert state_of(0.0, threshold, serving=False) == "overloaded"


def test_blocks_that_only_the_cache_holds_are_not_utilization() -> None:
    assert utilization(evolve(IDLE, used_blocks=10, cached_blocks=90)) == 0.1
    assert utilization(EngineStatus(ready=False)) == 0.0


# -- loading, failing ----------------------------------------------------------------------------


def test_while_the_model_loads_the_process_lives_and_is_not_ready(make_stage: MakeStage) -> None:
    stage = make_stage(Health())
    stage.service.status = EngineStatus(ready=False)
    assert get(stage, "/livez")[0] == 200
    assert get(stage, "/readyz") == (
        503,
        {"status": "not_ready", "reasons": ["the model is still loading"]},
    )
    assert get(stage, "/health")[0] == 503
    stage.service.status = IDLE
    assert get(stage, "/readyz") == (200, {"status": "ready", "reasons": []})


def test_an_engine_that_has_ended_is_dead(make_stage: MakeStage) -> None:
    stage = make_stage(Health())
    stage.service.status = EngineStatus(ready=False, error="the engine stopped")
    for path in ("/livez", "/readyz", "/health"):
        code, body = get(stage, path)
        assert (code, body["reasons"]) == (503, ["the engine stopped"])


def test_after_a_while_without_failures_traffic_is_let_in_again() -> None:
    failures = Failures()
    status = evolve(IDLE, counters={"failed_steps": 5.0})
    assert failures.in_a_row(status, 100.0) == 5
    assert failures.in_a_row(status, 100.0 + RECOVERY_S - 1) == 5
    assert failures.in_a_row(status, 100.0 + RECOVERY_S) == 0
    worse = evolve(IDLE, counters={"failed_steps": 6.0})
    assert failures.in_a_row(worse, 200.0) == 6


def test_an_iteration_that_brought_nothing_is_no_success() -> None:
    failures = Failures()
    failures.heard(iteration(2, decoded=0))
    assert failures.in_a_row(evolve(IDLE, counters={"failed_steps": 2.0}), 1.0) == 2
    failures.heard(iteration(2))
    assert failures.in_a_row(evolve(IDLE, counters={"failed_steps": 4.0}), 1.0) == 2


@pytest.mark.parametrize(
    ("age", "limit", "stuck"), [(61, 60, True), (60, 60, False), (0, 60, False), (999, 0, False)]
)
def test_a_step_is_stuck_beyond_the_limit_and_0_is_no_limit(
    age: float, limit: float, stuck: bool
) -> None:
    assert is_stuck(evolve(IDLE, last_step_age=age), limit) is stuck


# -- how probes are answered ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_probes_need_no_key_and_are_not_cached(make_stage: MakeStage, path: str) -> None:
    stage = make_stage(Health(), Auth(AuthOptions(api_key="sk-1")))
    answer = stage.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.alone
def test_a_verdict_takes_well_under_a_millisecond() -> None:
    health = Health()
    began = time.perf_counter()
    for _ in range(200):
        health.health(IDLE, 0.9)
        health.readyz(IDLE)
        health.livez(IDLE)
    assert (time.perf_counter() - began) / 600 < 0.001
