from concurrent.futures import ThreadPoolExecutor

import pytest

from mlxserve_hookspecs import EngineStatus
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.cache_api import CacheApi
from mlxserve_plugins.health import Health

from .scripted import MakeStage


def test_stats_are_each_tiers_own_and_the_engines_blocks(make_stage: MakeStage) -> None:
    stage = make_stage(CacheApi())
    stage.service.tiers = {"ram": {"held": 3.0, "hits": 8.0}, "ssd": {"held": 40.0}}
    stage.becomes(used_blocks=5, cached_blocks=3, total_blocks=64)
    answer = stage.http.get("/v1/cache/stats")
    assert answer.status_code == 200
    assert answer.json() == {
        "tiers": {"ram": {"held": 3.0, "hits": 8.0}, "ssd": {"held": 40.0}},
        "used_blocks": 5,
        "cached_blocks": 3,
        "total_blocks": 64,
    }


def test_clear_empties_the_tiers_and_says_what_went(make_stage: MakeStage) -> None:
    stage = make_stage(CacheApi())
    stage.service.tiers = {"ram": {"held": 3.0}, "ssd": {"held": 40.0}}
    answer = stage.http.post("/v1/cache/clear")
    assert answer.status_code == 200
    assert answer.json() == {"cleared": {"ram": 3, "ssd": 40}, "total": 43}
    assert stage.http.post("/v1/cache/clear").json()["total"] == 0


def test_both_need_the_key(make_stage: MakeStage) -> None:
    stage = make_stage(CacheApi(), Auth(AuthOptions(api_key="sk-1")))
    stage.service.tiers = {"ram": {"held": 3.0}}
    assert stage.http.get("/v1/cache/stats").status_code == 401
    assert stage.http.post("/v1/cache/clear").status_code == 401
    assert stage.service.tiers == {"ram": {"held": 3.0}}
    key = {"Authorization": "Bearer sk-1"}
    assert stage.http.post("/v1/cache/clear", headers=key).json()["total"] == 3


def test_clearing_is_no_get(make_stage: MakeStage) -> None:
    stage = make_stage(CacheApi())
    assert stage.http.get("/v1/cache/clear").status_code == 405


def test_while_the_model_loads_nobody_waits_for_the_engine(make_stage: MakeStage) -> None:
    stage = make_stage(CacheApi())
    stage.service.status = EngineStatus(ready=False)
    for answer in (stage.http.get("/v1/cache/stats"), stage.http.post("/v1/cache/clear")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(("method", "path"), [("GET", "stats"), ("POST", "clear")])
def test_tiers_that_block_do_not_hold_up_the_event_loop(
    make_stage: MakeStage, method: str, path: str
) -> None:
    stage = make_stage(CacheApi(), Health())
    stage.service.gate.clear()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(stage.http.request, method, f"/v1/cache/{path}")
        try:
            for _ in range(5):
                assert stage.http.get("/livez").status_code == 200
            assert not answer.done()
        finally:
            stage.service.gate.set()
        assert answer.result(10).status_code == 200
