import re
from typing import Any

import pytest

from mlxserve_hookspecs import EngineStatus, RequestError
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.dashboard import Dashboard
from mlxserve_plugins.dashboard.web import page_headers, state_of

from ..scripted import MakeStage

DATA = "/dashboard/data"


def test_page_is_one_file_that_loads_nothing_from_elsewhere(make_stage: MakeStage) -> None:
    answer = make_stage(Dashboard()).http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"(?:src|href)=[\"'](?!data:)", answer.text) == []
    assert re.findall(r"@import|url\(|https?://(?!www\.w3\.org/)", answer.text) == []


def test_page_may_run_its_own_script_only_and_talk_to_its_server_only() -> None:
    policy = page_headers("<style>a{}</style><script>1</script>")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='" in policy
    assert "unsafe" not in policy


def test_page_has_no_style_or_handler_that_its_policy_forbids(make_stage: MakeStage) -> None:
    page = make_stage(Dashboard()).http.get("/").text
    assert re.findall(r"<[^>]*\s(?:style|on[a-z]+)=", page) == []
    assert len(re.findall(r"<(?:script|style)>", page)) == 2


def test_page_is_open_and_its_data_need_the_key(make_stage: MakeStage) -> None:
    dashboard = Dashboard()
    stage = make_stage(dashboard, Auth(AuthOptions(api_key="sk-1")))
    assert stage.http.get("/").status_code == 200
    assert stage.http.get(DATA).status_code == 401
    key = {"Authorization": "Bearer sk-1"}
    assert stage.http.get(DATA, headers=key).status_code == 200


def test_data_say_what_the_engine_and_its_tiers_say(make_stage: MakeStage) -> None:
    stage = make_stage(Dashboard(), engine__max_batch_size=4, engine__max_queue_size=9)
    stage.service.tiers = {"ram": {"blocks": 3.0}}
    stage.becomes(running=2, waiting=1, used_blocks=5, cached_blocks=3, steps=7)
    data = stage.http.get(DATA).json()
    assert data["engine"] == {
        "running": 2,
        "waiting": 1,
        "batch": 4,
        "queue": 9,
        "steps": 7,
        "step_age_s": 0.0,
        "blocks": {"used": 5, "cached": 3, "total": 100},
        "preemptions": 0,
    }
    assert data["health"] == {"state": "healthy", "reasons": []}
    assert data["speculates"] is False
    assert data["tiers"] == {"ram": {"blocks": 3.0}}
    assert data["model"]["id"] == "org/scripted"
    assert data["history"]["running"][-1] == 2


def test_data_are_never_stored_on_the_way(make_stage: MakeStage) -> None:
    assert make_stage(Dashboard()).http.get(DATA).headers["cache-control"] == "no-store"


def test_data_come_while_the_model_loads(make_stage: MakeStage) -> None:
    stage = make_stage(Dashboard())
    stage.service.status = EngineStatus(ready=False)
    answer = stage.http.get(DATA)
    assert answer.status_code == 200
    assert (answer.json()["health"]["state"], answer.json()["model"]) == ("loading", None)


def test_requests_show_whether_or_not_somebody_looked(make_stage: MakeStage) -> None:
    stage = make_stage(Dashboard())
    stage.http.post("/v1/generate")
    stage.service.refuses = RequestError(status=429, message="no", code="queue_full")
    stage.http.post("/v1/generate")
    data = stage.http.get(DATA).json()
    assert data["since_start"]["replies"] == {"stop": 1}
    assert data["slow"][0]["total_s"] == 1.0


@pytest.mark.parametrize(
    ("settings", "changes", "state", "words"),
    [
        ({}, {"used_blocks": 95}, "overloaded", "95% of the memory"),
        ({"admission__memory_pressure_threshold": 0.99}, {"used_blocks": 95}, "degraded", ""),
        ({}, {"last_step_age": 61.0}, "overloaded", "running for 61 s"),
        ({"health__watchdog_timeout_s": 0.0}, {"last_step_age": 61.0}, "healthy", ""),
        ({}, {"error": "the GPU is gone"}, "failed", "the GPU is gone"),
    ],
    ids=["full", "another threshold", "stuck", "no watchdog", "failed"],
)
def test_health_has_its_reasons(
    make_stage: MakeStage,
    settings: dict[str, Any],
    changes: dict[str, Any],
    state: str,
    words: str,
) -> None:
    stage = make_stage(Dashboard(), **settings)
    stage.becomes(**changes)
    found = stage.http.get(DATA).json()["health"]
    assert found["state"] == state
    assert words in "; ".join(found["reasons"])
    assert bool(found["reasons"]) == bool(words)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "healthy"),
        ({"running": 1}, "healthy"),
        ({"waiting": 1}, "healthy"),
        ({"draining": True, "running": 1}, "shutting down"),
        ({"error": "the GPU is gone", "draining": True}, "failed"),
        ({"ready": False}, "loading"),
    ],
    ids=["nothing to do", "running", "waiting", "draining", "failed", "loading"],
)
def test_state_is_told_in_a_word_or_two(changes: dict[str, Any], state: str) -> None:
    assert state_of(EngineStatus(**{"ready": True, **changes})) == state
