import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from attrs import evolve
from litestar.testing import TestClient

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.admission import Admission, AdmissionOptions
from mlxserve_plugins.admission.memory import Memory
from mlxserve_plugins.auth import Auth, AuthOptions

from .scripted import IDLE, MakeStage, Stage, finish_of, request_of


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def client_of(stage: Stage) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(stage.http.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def settled(stage: Stage, submitted: int) -> None:
    """Wait until the engine has so many requests."""
    async with asyncio.timeout(10):
        while len(stage.service.submitted) < submitted:
            await asyncio.sleep(0.001)


@pytest.fixture
def held(make_stage: MakeStage) -> "Held":
    return Held(make_stage)


class Held:
    """Serves with admission over an engine whose replies end when a test says so."""

    def __init__(self, make_stage: MakeStage) -> None:
        self._make_stage = make_stage

    def stage(self, admission: Admission, *others: object) -> Stage:
        stage = self._make_stage(admission, *others)
        stage.service.answer = asyncio.Event()
        return stage


# -- DESIGN.md, section 10 -----------------------------------------------------------------------


async def test_too_many_requests_are_429_with_an_honest_retry_after(held: Held) -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=64))
    for _ in range(20):
        admission.pace.learn(finish_of(total=16.0))
    stage = held.stage(admission)
    stage.becomes(running=8, waiting=56, total_blocks=10_000)
    async with client_of(stage) as http:
        asked = [asyncio.create_task(http.post("/v1/generate")) for _ in range(200)]
        await settled(stage, 64)
        done, _ = await asyncio.wait(asked, timeout=0.2)
        refused = [task.result() for task in done]
        assert [answer.status_code for answer in refused] == [429] * 136
        assert {answer.json()["error"]["code"] for answer in refused} == {"too_many_requests"}
        # 8 rows of 16 seconds end one request in 2 seconds, and 56 wait before the next.
        assert {answer.headers["retry-after"] for answer in refused} == {str(57 * 2)}
        assert stage.service.answer is not None
        stage.service.answer.set()
        answers = await asyncio.gather(*asked)
        assert sum(answer.status_code == 200 for answer in answers) == 64
        assert admission.ledger.entries() == []
        stage.becomes(running=0, waiting=0)
        assert (await http.post("/v1/generate")).status_code == 200


async def test_memory_pressure_is_503_with_retry_after_by_what_requests_will_need(
    held: Held,
) -> None:
    admission = Admission()
    stage = held.stage(admission)
    # Each request has 8 tokens of prompt and 8 of reply: one block of 16. Nothing is used yet.
    stage.becomes(total_blocks=4, used_blocks=0)
    async with client_of(stage) as http:
        first = [asyncio.create_task(http.post("/v1/generate")) for _ in range(3)]
        await settled(stage, 3)
        refused = await http.post("/v1/generate")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "memory_pressure"
        assert int(refused.headers["retry-after"]) >= 1
        assert stage.service.answer is not None
        stage.service.answer.set()
        assert [answer.status_code for answer in await asyncio.gather(*first)] == [200] * 3
        assert (await http.post("/v1/generate")).status_code == 200


def test_draining_is_503_with_retry_after_before_any_429() -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=1))
    admission.request_received(request_of())
    refused = admission.admit(request_of(), evolve(IDLE, draining=True))
    assert refused is not None
    assert (refused.status, refused.code, refused.retry_after) == (503, "shutting_down", 30.0)


# -- what is in flight ---------------------------------------------------------------------------


async def test_a_client_that_leaves_gives_its_place_back(held: Held) -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=1))
    stage = held.stage(admission)
    async with client_of(stage) as http:
        asked = asyncio.create_task(http.post("/v1/generate"))
        await settled(stage, 1)
        assert (await http.post("/v1/generate")).status_code == 429
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert admission.ledger.entries() == []
        assert stage.service.answer is not None
        stage.service.answer.set()
        assert (await http.post("/v1/generate")).status_code == 200


def test_what_the_engine_refuses_gives_its_place_back(make_stage: MakeStage) -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=1))
    stage = make_stage(admission)
    stage.service.refuses = RequestError(status=429, message="full", code="queue_full")
    for _ in range(3):
        answer = stage.http.post("/v1/generate")
        assert answer.json()["error"]["code"] == "queue_full"
    assert admission.ledger.entries() == []


def test_what_another_plugin_refuses_is_not_counted(make_stage: MakeStage) -> None:
    first = Admission(AdmissionOptions(max_concurrent_requests=5))
    second = Admission(AdmissionOptions(concurrent_per_key=1))
    second.request_received(request_of())
    stage = make_stage(first, second)
    assert stage.http.post("/v1/generate").status_code == 429
    assert first.ledger.entries() == []


async def test_a_request_of_many_prompts_is_judged_once(held: Held) -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=1, requests_per_minute=1))
    stage = held.stage(admission)
    assert stage.service.answer is not None
    stage.service.answer.set()
    async with client_of(stage) as http:
        answer = await http.post("/v1/generate?prompts=5")
        assert answer.json() == {"replies": 5}
        assert (await http.post("/v1/generate")).status_code == 429


def test_outside_of_http_a_request_counts_until_its_last_choice_ends() -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=1))
    request = request_of(choices=2)
    admission.request_received(request)
    for _ in range(2):
        assert admission.admit(request_of(), IDLE) is not None
        admission.request_finished(request, finish_of())
    assert admission.admit(request_of(), IDLE) is None


def test_0_is_unlimited() -> None:
    admission = Admission(AdmissionOptions(max_concurrent_requests=0))
    for _ in range(500):
        request = request_of()
        assert admission.admit(request, evolve(IDLE, total_blocks=10_000)) is None
        admission.request_received(request)


def test_who_has_a_row_comes_before_who_came_earlier_and_waits() -> None:
    admission = Admission()
    admission.memory = Memory(rows=1)
    waits, runs = request_of(prompt=16 * 95), request_of()
    admission.request_received(waits)
    admission.request_received(runs)
    status = evolve(IDLE, running=1, waiting=1)
    assert admission.admit(request_of(), status) is not None
    admission.first_token(runs)
    assert admission.admit(request_of(), status) is None


# -- keys ----------------------------------------------------------------------------------------


async def keyed(http: httpx.AsyncClient, key: str) -> httpx.Response:
    return await http.post("/v1/generate", headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
async def two_keys(held: Held) -> AsyncIterator[tuple[Stage, httpx.AsyncClient, Clock]]:
    """Serve a place for 8, 60 requests a minute and at most 7 at a time for each key."""
    clock = Clock()
    limits = AdmissionOptions(
        max_concurrent_requests=8, concurrent_per_key=7, requests_per_minute=60
    )
    auth = Auth(AuthOptions(api_key="one"))
    auth.keys.fixed = (*auth.keys.fixed, *Auth(AuthOptions(api_key="two")).keys.fixed)
    auth.keys.fixed = tuple(evolve(k, tenant=n) for k, n in zip(auth.keys.fixed, "ab", strict=True))
    stage = held.stage(Admission(limits, clock), auth)
    stage.becomes(total_blocks=10_000)
    async with client_of(stage) as http:
        yield stage, http, clock


TwoKeys = tuple[Stage, httpx.AsyncClient, Clock]


async def test_a_key_has_its_own_limit_and_leaves_room_for_another(two_keys: TwoKeys) -> None:
    stage, http, _ = two_keys
    asked = [asyncio.create_task(keyed(http, "one")) for _ in range(7)]
    await settled(stage, 7)
    refused = await keyed(http, "one")
    assert refused.json()["error"]["code"] == "too_many_requests_for_key"
    asked.append(asyncio.create_task(keyed(http, "two")))
    await settled(stage, 8)
    assert (await keyed(http, "two")).json()["error"]["code"] == "too_many_requests"
    assert stage.service.answer is not None
    stage.service.answer.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_a_busy_key_leaves_the_last_places_to_who_has_fewer(two_keys: TwoKeys) -> None:
    stage, http, _ = two_keys
    asked = [asyncio.create_task(keyed(http, key)) for key in ["two", *["one"] * 6]]
    await settled(stage, 7)
    assert (await keyed(http, "one")).json()["error"]["code"] == "fair_share"
    asked.append(asyncio.create_task(keyed(http, "two")))
    await settled(stage, 8)
    assert stage.service.answer is not None
    stage.service.answer.set()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_requests_a_minute_are_each_keys_own_and_come_back_steadily(
    two_keys: TwoKeys,
) -> None:
    stage, http, clock = two_keys
    assert stage.service.answer is not None
    stage.service.answer.set()
    for _ in range(60):
        assert (await keyed(http, "one")).status_code == 200
    refused = await keyed(http, "one")
    assert refused.json()["error"]["code"] == "requests_per_minute"
    assert refused.headers["retry-after"] == "1"
    assert (await keyed(http, "two")).status_code == 200
    clock.now += 1.0
    assert (await keyed(http, "one")).status_code == 200
    assert (await keyed(http, "one")).status_code == 429


def test_tokens_that_were_not_used_are_given_back() -> None:
    clock = Clock()
    admission = Admission(AdmissionOptions(tokens_per_minute=600), clock)
    roomy = evolve(IDLE, total_blocks=10_000)
    big = request_of(prompt=100, max_tokens=400)
    assert admission.admit(big, roomy) is None
    admission.request_received(big)
    refused = admission.admit(request_of(prompt=100, max_tokens=400), roomy)
    assert refused is not None
    assert refused.code == "tokens_per_minute"
    assert refused.retry_after == pytest.approx(40.0)  # 400 missing tokens, 10 of them a second
    admission.request_finished(big, finish_of(20, prompt=100))
    again = request_of(prompt=100, max_tokens=380)
    assert admission.admit(again, roomy) is None


def test_tokens_of_a_client_that_left_are_settled_when_the_engine_tells() -> None:
    clock = Clock()
    admission = Admission(AdmissionOptions(tokens_per_minute=500), clock)
    roomy = evolve(IDLE, total_blocks=10_000)
    request = request_of(prompt=100, max_tokens=400)
    admission.request_received(request)
    (entry,) = admission.ledger.entries()
    admission.ledger.left(entry.visit, clock.now)
    assert admission.ledger.entries() == []
    assert admission.admit(request_of(), roomy) is not None
    admission.request_finished(request, finish_of(150, prompt=100, reason="cancelled"))
    assert admission.admit(request_of(prompt=50, max_tokens=200), roomy) is None
    assert admission.admit(request_of(prompt=50, max_tokens=201), roomy) is not None


def test_tokens_of_a_request_that_never_reached_the_engine_come_back_in_the_end() -> None:
    clock = Clock()
    admission = Admission(AdmissionOptions(tokens_per_minute=500), clock)
    admission.request_received(request_of(prompt=100, max_tokens=5000))  # a debt of 4600
    (entry,) = admission.ledger.entries()
    admission.ledger.left(entry.visit, clock.now)
    clock.now += 61.0
    assert admission.admit(request_of(), evolve(IDLE, total_blocks=10_000)) is None


def test_the_settings_of_the_engine_are_what_projections_start_from(make_stage: MakeStage) -> None:
    admission = Admission(AdmissionOptions(memory_pressure_threshold=0.5))
    stage = make_stage(admission, engine__block_size=32, engine__max_batch_size=3)
    assert isinstance(stage.http, TestClient)
    assert (admission.memory.block_size, admission.memory.rows) == (32, 3)
    assert admission.memory.threshold == 0.5
