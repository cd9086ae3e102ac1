"""What once stopped, starved or ended the engine."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from attrs import define, field

from mlxserve.batch.decoder import Launched
from mlxserve.batch.runner import Runner
from mlxserve_hookspecs import Block, BlockKey, CacheTier, Load, hookimpl
from mlxserve_plugins.fcfs import FcfsPolicy
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, bench, plain, prompt, request
from .tiny import shared_model


@cache
def model() -> Any:
    return shared_model("llama", seed=3)


def others_are_well(it: Bench, *names: str) -> None:
    for name in names:
        assert it.replies.tokens(name) == plain(model(), prompt(int(name)), 12)


def test_a_prompt_that_can_never_fit_holds_nobody_up_with_several_choices_either() -> None:
    it = bench(model(), blocks=32)
    it.submit(request("long", prompt(600), choices=3))
    it.submit(request("20", prompt(20)))
    it.run(400)
    for choice in range(3):
        assert it.replies.finish("long", choice).error.code == "context_length_exceeded"
    others_are_well(it, "20")


def test_a_sequence_that_outgrows_kv_ends_with_what_it_has_and_lets_others_run() -> None:
    it = bench(model(), blocks=16)
    for name in ("200", "190"):
        it.submit(request(name, prompt(int(name)), 400))
    it.submit(request("20", prompt(20)))
    it.run(4000)
    for name in ("200", "190"):
        tokens = it.replies.tokens(name)
        assert it.replies.finish(name).reason == "length"
        assert len(tokens) > 30
        assert tokens == plain(model(), prompt(int(name)), len(tokens))
    others_are_well(it, "20")


@pytest.mark.parametrize(
    "tokens",
    [(1, 2, 999), (1, -2), ()],
    ids=["beyond the vocabulary", "negative", "empty"],
)
def test_whoever_asks_the_core_looks_at_the_request(tokens: tuple[int, ...]) -> None:
    it = bench(model())
    it.submit(request("20", prompt(20)))
    it.submit(request("bad", tokens))
    it.run()
    error = it.replies.finish("bad").error
    assert (error.status, error.param) == (400, "prompt")
    others_are_well(it, "20")


def test_what_is_kept_for_those_in_the_queue_ends_nobody_who_runs() -> None:
    it = bench(model(), PrefixCache(), blocks=16, live=1)
    it.submit(request("100", prompt(100), 4))
    it.run()
    it.submit(request("60", prompt(60), 180))
    it.step()
    it.submit(request("next", [*prompt(100), 7], 12))
    it.run()
    assert it.replies.tokens("60") == plain(model(), prompt(60), 180)
    assert it.replies.tokens("next") == plain(model(), [*prompt(100), 7], 12)


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("logit_bias", {"sampling": {"logit_bias": {999: 1.0}}}),
        ("prediction", {"prediction": (1, 999)}),
        ("prediction", {"prediction": ("one",)}),
        ("logprobs", {"logprobs": 257}),
        ("prompt_logprobs", {"prompt_logprobs": -1}),
    ],
    ids=["a bias", "a prediction", "a prediction of words", "too many", "less than none"],
)
def test_the_core_looks_at_all_that_names_tokens(param: str, changes: dict[str, Any]) -> None:
    it = bench(model())
    it.submit(request("20", prompt(20)))
    it.submit(request("bad", prompt(5), **changes))
    it.run()
    error = it.replies.finish("bad").error
    assert (error.status, error.param) == (400, param)
    others_are_well(it, "20")


class Stingy(FcfsPolicy):
    """Lets no prompt be run."""

    def prefill_tokens(self, load: Load) -> int:
        return 0


def test_a_policy_that_gives_prompts_no_token_is_given_one() -> None:
    it = bench(model(), policy=Stingy())
    it.submit(request("20", prompt(20)))
    it.run(200)
    others_are_well(it, "20")


def test_an_evaluation_that_fails_takes_nothing_along_when_blocks_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU raises when a graph is evaluated, not when it is built, and its planes raise again.

    On a CPU mlx ends the process instead, so that what it would raise is put in its place.
    """
    it = bench(model(), PrefixCache())
    it.submit(request("40", prompt(40), 12))
    it.run()
    it.submit(request("gone", [*prompt(40), *prompt(20)], 60))
    it.submit(request("21", prompt(21), 60))
    it.step(6)
    store = it.engine.scheduler.store
    assert isinstance(store, Runner)
    broken = {id(a) for leaf in store.pool.data for a in leaf}
    evaluate = mx.eval

    def fails(*_: Any) -> None:
        raise RuntimeError("[cuda_malloc] Unable to allocate 1 bytes: out of memory")

    def fails_again(*arrays: Any) -> None:
        flat = [a for some in arrays for a in (some if isinstance(some, list) else [some])]
        if any(id(a) in broken for a in flat):
            fails()
        evaluate(*arrays)

    with monkeypatch.context() as patch:
        patch.setattr("mlxserve.batch.decoder.mx.async_eval", fails)
        patch.setattr(mx, "eval", fails_again)
        it.step()
    assert it.replies.finish("gone").error.status == 503
    assert it.engine.scheduler.store.used() == 0
    it.submit(request("40b", prompt(40), 12))
    it.submit(request("30", prompt(30)))
    it.run()
    assert it.replies.finish("40b").usage.cached_tokens == 0
    assert it.replies.tokens("40b") == plain(model(), prompt(40), 12)
    others_are_well(it, "30")


@define(eq=False)
class SlowTier:
    """Has every block, and does not say when it will come."""

    name: str = "slow"
    wants_fresh: bool = False
    asked: list[Future[Sequence[Block]]] = field(factory=list)

    @hookimpl
    def make_cache_tier(self) -> CacheTier:
        return self

    def room(self) -> int:
        return 0

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        return len(keys)

    def fetch(self, keys: Sequence[BlockKey]) -> Future[Sequence[Block]]:
        self.asked.append(Future())
        return self.asked[-1]

    def store(self, blocks: Sequence[Block]) -> None:
        raise AssertionError("no room was offered")

    def held(self) -> int:
        return 0

    def clear(self) -> int:
        return 0

    def stats(self) -> dict[str, float]:
        return {}

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        """Have nothing to let go of."""


@pytest.mark.alone
def test_the_loop_sleeps_while_blocks_are_loaded_and_wakes_when_they_come() -> None:
    tier = SlowTier()
    it = bench(model(), tier)
    it.submit(request("40", prompt(40)))
    it.step()
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < 0.6:
        it.step()
        steps += 1
    assert steps <= 4
    began = time.monotonic()
    tier.asked[0].set_result(())
    it.step()
    assert time.monotonic() - began < 0.2
    it.run()
    others_are_well(it, "40")


@pytest.mark.alone
def test_a_loop_that_turns_and_gets_nobody_on_says_for_how_long() -> None:
    tier = SlowTier()
    it = bench(model(), tier)
    it.submit(request("40", prompt(40)))
    for _ in range(3):
        it.step()
    assert it.engine.status().last_step_age > 0.4
    tier.asked[0].set_result(())
    it.run()
    assert it.engine.status().last_step_age < 0.3
    others_are_well(it, "40")


def test_a_client_that_leaves_frees_what_is_being_loaded_for_it() -> None:
    tier = SlowTier()
    it = bench(model(), tier)
    it.submit(request("40", prompt(40)))
    it.step()
    it.cancel("40")
    it.step()
    assert tier.asked[0].cancelled()
    assert it.engine.scheduler.all == []


def test_a_row_with_penalties_or_without_does_not_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step is in flight while the next is launched, whoever joins."""
    flying: list[bool] = []
    read = Launched.read

    def watch(self: Launched) -> Any:
        flying.append(it.engine.decoder._last is not self)
        return read(self)

    monkeypatch.setattr(Launched, "read", watch)
    it = bench(model())
    penalised = {"temperature": 0.0, "frequency_penalty": 0.7, "presence_penalty": 0.1}
    for n in range(6):
        it.submit(request(f"p{n}", prompt(12 + n), 20, sampling=penalised))
        it.step(3)
    it.run()
    alone = bench(model())
    for n in range(6):
        alone.submit(request(f"p{n}", prompt(12 + n), 20, sampling=penalised))
        alone.run()
        assert it.replies.tokens(f"p{n}") == alone.replies.tokens(f"p{n}")
    assert sum(flying[:40]) >= 36
