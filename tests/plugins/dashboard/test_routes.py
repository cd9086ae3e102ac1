import re
from typing import Any

import pytest

from mlxserve_hookspecs import EngineStatus
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
    assert dashboard.recorder is None, "who has no key does not make the server record"
    key = {"Authorization": "Bearer sk-1"}
    assert stage.http.get(DATA, headers=key).status_code == 200


def test_data_say_what_the_engine_and_its_tiers_say(make_stage: MakeStage) -> None:
    stage = make_stage(
        Dashboard(),
        engine__max_batch_size=4,
        engine__prefill_batch_size=3,
        engine__completion_batch_size=6,
    )
    stage.service.tiers = {"ram": {"blocks": 3.0}}
    stage.becomes(running=2, waiting=1, used_blocks=5, cached_blocks=3, steps=7)
    data = stage.http.get(DATA).json()
    assert data["engine"] == {
        "state": "busy",
        "error": None,
        "running": 2,
        "rows": 6,
        "waiting": 1,
        "steps": 7,
        "step_age_s": 0.0,
        "blocks": {"used": 5, "cached": 3, "total": 100},
        "preemptions": 0,
    }
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
    assert (answer.json()["engine"]["state"], answer.json()["model"]) == ("loading", None)


def test_requests_show_while_somebody_looks(make_stage: MakeStage) -> None:
    stage = make_stage(Dashboard())
    stage.http.post("/v1/generate")
    assert stage.http.get(DATA).json()["ended"] == {}
    stage.http.post("/v1/generate")
    assert stage.http.get(DATA).json()["ended"] == {"stop": 1}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "idle"),
        ({"running": 1}, "busy"),
        ({"waiting": 1}, "busy"),
        ({"draining": True, "running": 1}, "draining"),
        ({"error": "the GPU is gone", "draining": True}, "failed"),
        ({"ready": False}, "loading"),
    ],
    ids=["nothing to do", "running", "waiting", "draining", "failed", "loading"],
)
def test_state_is_one_word(changes: dict[str, Any], state: str) -> None:
    assert state_of(EngineStatus(**{"ready": True, **changes})) == state
