"""Requests come and go: cancelled, too late, too long, broken; nobody else is hurt."""

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from mlxserve.batch.runner import Runner
from mlxserve.inbox import Drain, Submit
from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    Iteration,
    RequestError,
    TextCodec,
    hookimpl,
)
from mlxserve_plugins.priority import PriorityPolicy

from .harness import Bench, Letters, bench, plain, prompt, request
from .tiny import shared_model


@cache
def model() -> Any:
    return shared_model("llama", seed=3)


def others_are_well(it: Bench, *names: str) -> None:
    for name in names:
        assert it.replies.tokens(name) == plain(model(), prompt(int(name)), 12)


def test_a_cancelled_request_frees_its_row_within_one_iteration() -> None:
    it = bench(model())
    it.submit(request("20", prompt(20)))
    it.submit(request("gone", prompt(30), 500))
    it.step(6)
    scheduler = it.engine.scheduler
    assert len(scheduler.running) == 2
    it.cancel("gone")
    it.step()
    assert [s.request.id for s in scheduler.running] == ["20"]
    it.run()
    assert it.replies.finish("gone").reason == "cancelled"
    others_are_well(it, "20")


def test_a_request_cancelled_in_the_queue_never_runs() -> None:
    it = bench(model(), decoding=1, prefilling=1, live=1)
    it.submit(request("20", prompt(20)))
    it.submit(request("gone", prompt(30)))
    it.step(2)
    it.cancel("gone")
    it.run()
    assert it.replies.tokens("gone") == []
    others_are_well(it, "20")


def test_a_client_that_leaves_during_prefill_costs_no_further_chunk() -> None:
    it = bench(model(), chunk_alone=16)
    it.submit(request("gone", prompt(400)))
    it.step(3)
    it.cancel("gone")
    it.step()
    assert it.engine.scheduler.store.used() == 0
    prefilled = [e.prefilled for e in it.replies.of("gone") if e.prefilled]
    assert max(prefilled) <= 64


@pytest.mark.parametrize(
    ("field", "code"),
    [("request_timeout", "request_timeout"), ("first_token_timeout", "first_token_timeout")],
)
def test_a_request_that_runs_out_of_time_before_its_first_token_ends_with_an_error(
    field: str, code: str
) -> None:
    it = bench(model(), chunk_alone=1)
    late = request("late", prompt(50), 1000, **{field: 0.5})
    it.inbox.put(Submit(late, time.monotonic() - 1.0, 0))
    it.inbox.put(Submit(request("20", prompt(20)), time.monotonic(), 0))
    it.run()
    end = it.replies.finish("late")
    assert (end.reason, end.error.status, end.error.code) == ("timeout", 504, code)
    others_are_well(it, "20")


def test_a_reply_that_runs_out_of_time_keeps_what_it_has() -> None:
    it = bench(model())
    late = request("late", prompt(20), 1000, request_timeout=5.0)
    it.inbox.put(Submit(late, time.monotonic(), 0))
    while not it.replies.tokens("late"):
        it.engine.step()
    it.engine.scheduler.all[0].arrived -= 10.0
    it.run()
    end = it.replies.finish("late")
    assert (end.reason, end.error) == ("length", None)
    tokens = it.replies.tokens("late")
    assert end.usage.completion_tokens == len(tokens) > 0
    assert tokens == plain(model(), prompt(20), len(tokens))


def test_a_prompt_that_can_never_fit_is_refused_and_others_run() -> None:
    it = bench(model(), blocks=32)
    it.submit(request("long", prompt(600)))
    it.submit(request("20", prompt(20)))
    it.run()
    end = it.replies.finish("long")
    assert (end.error.status, end.error.code) == (400, "context_length_exceeded")
    others_are_well(it, "20")


def test_when_kv_runs_out_somebody_gives_way_and_comes_back() -> None:
    it = bench(model(), blocks=64)  # 1024 tokens: four rows of 256
    for length in (200, 210, 220, 230):
        it.submit(request(str(length), prompt(length), 80))
    it.run()
    assert it.engine.scheduler.preemptions > 0
    for length in (200, 210, 220, 230):
        assert it.replies.tokens(str(length)) == plain(model(), prompt(length), 80)


def test_live_rows_never_exceed_the_budget() -> None:
    it = bench(model(), blocks=96, decoding=6)
    for length in (100, 250, 30, 200, 240, 90, 10, 251):
        it.submit(request(str(length), prompt(length), 60))
    while it.inbox or not it.engine.scheduler.idle:
        it.step()
        assert it.engine.scheduler.blocks_used() <= 96


class Censor:
    """A constraint plugin that allows even tokens only, and fails on demand."""

    @hookimpl
    def make_constraint(self, request: GenerationRequest, text: TextCodec) -> Constraint | None:
        del text
        kind = (request.constraint or {}).get("type")
        return Even(kind) if kind in ("even", "broken mask", "broken advance") else None


class Even:
    def __init__(self, kind: str) -> None:
        self.kind, self.taken = kind, 0

    def mask(self) -> Any:
        import mlx.core as mx

        if self.kind == "broken mask" and self.taken == 3:
            raise ValueError("no mask")
        return mx.arange(256) % 2 == 0

    def advance(self, tokens: Sequence[int]) -> None:
        self.taken += len(tokens)
        if self.kind == "broken advance" and self.taken == 3:
            raise ValueError("cannot advance")

    def rollback(self, count: int) -> None:
        self.taken -= count

    @property
    def finished(self) -> bool:
        return self.taken >= 7


def test_a_constraint_masks_its_own_row_only() -> None:
    it = bench(model(), Censor())
    it.submit(request("20", prompt(20)))
    it.submit(request("even", prompt(20), constraint={"type": "even"}))
    it.run()
    assert len(it.replies.tokens("even")) == 7
    assert all(t % 2 == 0 for t in it.replies.tokens("even"))
    assert it.replies.finish("even").reason == "stop"
    others_are_well(it, "20")


@pytest.mark.parametrize("kind", ["broken mask", "broken advance"])
def test_a_constraint_that_raises_ends_its_own_request(kind: str) -> None:
    it = bench(model(), Censor())
    it.submit(request("20", prompt(20)))
    it.submit(request("bad", prompt(20), constraint={"type": kind}))
    it.run()
    end = it.replies.finish("bad")
    assert (end.reason, end.error.status) == ("error", 500)
    assert "mask" not in end.error.message
    others_are_well(it, "20")


def test_a_demand_that_nobody_answers_is_refused() -> None:
    it = bench(model())
    it.submit(request("bad", prompt(20), constraint={"type": "even"}))
    it.submit(request("20", prompt(20)))
    it.run()
    assert it.replies.finish("bad").error.status == 400
    others_are_well(it, "20")


class BadLetters(Letters):
    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        if 77 in tokens:
            raise RuntimeError("cannot decode 77")
        return super().decode(tokens, skip_special_tokens=skip_special_tokens)


def test_a_token_that_cannot_be_decoded_ends_its_own_request() -> None:
    it = bench(model(), text=BadLetters())
    it.submit(request("20", prompt(20)))
    bias = {"temperature": 0.0, "logit_bias": {77: 1000.0}}
    it.submit(request("bad", prompt(20), sampling=bias))
    it.run()
    assert it.replies.finish("bad").error.status == 500
    others_are_well(it, "20")


def test_a_failing_decode_pass_fails_its_batch_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = bench(model())
    it.submit(request("20", prompt(20), 40))
    it.step(4)

    def broken(store: Any, tokens: Any) -> Any:
        raise RuntimeError("[malloc] out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "decode", broken)
        it.step()
    it.submit(request("30", prompt(30)))
    it.run()
    assert it.replies.finish("20").error.status == 503
    others_are_well(it, "30")
    assert it.engine.scheduler.store.used() == 0


def test_a_failing_prefill_fails_its_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench(model())
    it.submit(request("20", prompt(20)))
    it.step(3)

    def broken(store: Any, chunks: Any) -> Any:
        raise RuntimeError("boom")

    it.submit(request("bad", prompt(30)))
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "prefill", broken)
        it.step()
    it.run()
    assert it.replies.finish("bad").error.status == 500
    assert it.engine.status().counters["failed_steps"] == 1
    others_are_well(it, "20")


class Listener:
    def __init__(self) -> None:
        self.iterations: list[Iteration] = []
        self.ends: list[str] = []

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        self.iterations.append(iteration)
        raise RuntimeError("a plugin that fails")

    @hookimpl
    def request_finished(self, request: GenerationRequest) -> None:
        self.ends.append(request.id)


def test_a_plugin_that_fails_in_a_tell_harms_nobody() -> None:
    listener = Listener()
    it = bench(model(), listener)
    it.submit(request("20", prompt(20)))
    it.run()
    others_are_well(it, "20")
    assert listener.ends == ["20"]
    assert sum(i.decoded for i in listener.iterations) == 12
    assert sum(i.prefilled for i in listener.iterations) == 19


def test_a_drain_ends_what_is_late_with_an_error() -> None:
    it = bench(model())
    it.submit(request("20", prompt(20), 12))
    it.submit(request("long", prompt(20), 100_000))
    it.inbox.put(Drain(time.monotonic() + 0.5))
    it.run(100_000)
    others_are_well(it, "20")
    end = it.replies.finish("long")
    assert isinstance(end.error, RequestError)
    assert end.error.status == 503


def test_what_comes_after_a_drain_is_refused_and_told() -> None:
    listener = Listener()
    it = bench(model(), listener)
    it.inbox.put(Drain(time.monotonic() + 60))
    it.submit(request("late", prompt(20), choices=2))
    it.run()
    for choice in range(2):
        error = it.replies.finish("late", choice).error
        assert (error.status, error.code, error.retry_after) == (503, "shutting_down", 30.0)
    assert listener.ends == ["late", "late"]


def order_of_endings(it: Bench) -> list[str]:
    return [e.request_id for e in it.replies.events if e.finish]


def test_first_come_first_served() -> None:
    it = bench(model(), decoding=1, prefilling=1, live=1)
    for name in ("20", "21", "22"):
        it.inbox.put(Submit(request(name, prompt(int(name)), priority=-int(name)), int(name), 0))
    it.run()
    assert order_of_endings(it) == ["20", "21", "22"]


def test_priority_goes_first_and_age_counts() -> None:
    it = bench(model(), policy=PriorityPolicy(aging=10.0), decoding=1, prefilling=1, live=1)
    now = time.monotonic()
    for name, priority, age in (("a", 5, 0), ("b", 1, 0), ("c", 9, 100), ("d", 3, 0)):
        asked = request(name, prompt(20), 3, priority=priority)
        it.inbox.put(Submit(asked, now - age, 0))
    it.run()
    assert order_of_endings(it) == ["c", "b", "d", "a"]
