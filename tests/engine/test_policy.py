"""What a policy is told, and what it decides: admission, prefill, and who decodes first."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from mlxserve.cache.chain import extend, root
from mlxserve_hookspecs import BlockKey, Candidate
from mlxserve_plugins.fcfs import FcfsPolicy
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, bench, plain, prompt, request
from .tiny import shared_model


@cache
def model() -> Any:
    return shared_model("llama", seed=3)


class Urgent(FcfsPolicy):
    """Lets lower priorities get on first, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], Candidate] = {}

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        self.shown |= {(c.id, c.phase): c for c in waiting}
        return sorted(waiting, key=lambda c: c.priority)

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        self.shown |= {(c.id, c.phase): c for c in running}
        return super().victim(running, now)


def firsts(it: Bench) -> list[str]:
    """Return the requests in the order of their first tokens."""
    return list(dict.fromkeys(e.request_id for e in it.replies.events if e.tokens))


def test_a_policy_orders_prompts_that_are_run_already() -> None:
    policy = Urgent()
    it = bench(model(), policy=policy, chunk_alone=16, chunk_shared=16)
    it.submit(request("late", prompt(70), 4, priority=9))
    it.step(2)
    it.submit(request("soon", prompt(71), 4, priority=1))
    it.run()
    assert firsts(it) == ["soon", "late"]
    for name, length in (("late", 70), ("soon", 71)):
        assert it.replies.tokens(name) == plain(model(), prompt(length), 4)
    shown = policy.shown["late", "prefilling"]
    assert 0 < shown.remaining_prefill < 69


def test_a_policy_orders_who_decodes_when_a_place_comes_free() -> None:
    policy = Urgent()
    it = bench(model(), policy=policy, decoding=1, prefilling=3)
    for name, length, priority in (("one", 20, 5), ("two", 21, 9), ("three", 22, 1)):
        it.submit(request(name, prompt(length), 6, priority=priority))
        it.step()
    it.run()
    assert firsts(it) == ["one", "three", "two"]
    assert {name for name, phase in policy.shown if phase == "ready"} == {"two", "three"}


def test_who_is_left_out_of_an_order_stays_where_it_is() -> None:
    class Shy(Urgent):
        def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
            return [c for c in super().order(waiting, now) if c.priority < 5]

    it = bench(model(), policy=Shy())
    it.submit(request("left", prompt(20), 4, priority=9))
    it.submit(request("first", prompt(21), 4))
    it.submit(request("second", prompt(22), 4))
    it.run()
    assert firsts(it) == ["first", "second", "left"]  # alone, it needs no order


def test_a_policy_is_told_deadlines_and_what_is_cached() -> None:
    policy = Urgent()
    it = bench(model(), PrefixCache(), policy=policy, live=1)
    it.submit(request("warm", prompt(40), 4))
    it.run()
    it.submit(request("busy", prompt(20), 30))
    it.step(2)
    limits = {"request_timeout": 1e9, "first_token_timeout": 1e8}
    it.submit(request("hit", [*prompt(40), *prompt(9)], 4, **limits))
    it.step()
    it.submit(request("miss", prompt(50), 4))
    it.run()
    hit, miss = policy.shown["hit", "waiting"], policy.shown["miss", "waiting"]
    chain: list[BlockKey] = []
    namespace = it.cache.restorer.layout.namespace
    extend(chain, prompt(40), 16, root(namespace, ""))
    assert (hit.cached_tokens, hit.cached_key) == (32, chain[1].hash)
    assert (miss.cached_tokens, miss.cached_key) == (0, None)
    assert hit.deadline == hit.arrived + 1e8  # the first of its two limits
    assert miss.deadline is None
    assert hit.uid != miss.uid
