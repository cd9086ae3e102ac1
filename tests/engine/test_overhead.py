"""What an iteration costs beside the model does not grow with the queue or the cache: counted."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

from mlxserve.batch.runner import Runner
from mlxserve.batch.sequence import Sequence
from mlxserve.engine.engine import Engine
from mlxserve.engine.offline import CHAIN, Offline
from mlxserve.pool.blocks import Blocks
from mlxserve_hookspecs import EngineFacts, ModelError
from mlxserve_plugins.prefix_cache import LeastRecentlyUsed, PrefixCache

from .harness import Bench, bench
from .tiny import shared_model


@cache
def model() -> Any:
    return shared_model("llama")


FACTS = EngineFacts(model="tiny", codec="plain", weight_bytes=1, kv_token_bytes=1)


def offline(it: Bench) -> Offline:
    store = it.engine.scheduler.store
    assert isinstance(store, Runner)
    return Offline(store, FACTS, it.engine)


def counting(monkeypatch: pytest.MonkeyPatch, *methods: tuple[type, str]) -> Counter[str]:
    """Count calls of methods."""
    counts: Counter[str] = Counter()
    for kind, name in methods:
        plain = getattr(kind, name)

        def counted(*args: Any, plain: Any = plain, name: str = name, **named: Any) -> Any:
            counts[name] += 1
            return plain(*args, **named)

        monkeypatch.setattr(kind, name, counted)
    return counts


def test_a_queued_request_is_shown_to_the_policy_as_one_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = counting(monkeypatch, (Sequence, "candidate"))
    it = bench(model(), decoding=4, live=8)
    turns = offline(it).serve(requests=60, prompt=6, reply=4)
    # once in the queue, once in the pass that runs its prompt
    assert counts["candidate"] <= 2 * 60
    assert turns[0].waiting > 40
    assert sum(turn.admitted for turn in turns) == 60


def calls_beside(cached: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return who was called how often while requests ran beside so many cached blocks."""
    asked = [(LeastRecentlyUsed, name) for name in ("used", "unused", "victims")]
    walked = [(Blocks, name) for name in ("keys_unused", "victims", "_place")]
    it, held = bench(model(), PrefixCache(), blocks=2000), list[int]()
    engine, step = offline(it), Engine.step

    def watched(engine: Engine) -> bool:
        held.append(it.cache.held)
        return step(engine)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", watched)
        counts = counting(patch, *asked, *walked)
        turns = engine.serve(requests=3, prompt=40, reply=30, cached=cached)
    assert held[0] == cached
    assert it.cache.held == 0
    assert len(turns) > 30
    chains = -(-cached // CHAIN)
    return counts - Counter(unused=chains, _place=chains, used=cached)


def test_cached_blocks_cost_an_iteration_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without, beside = calls_beside(0, monkeypatch), calls_beside(1500, monkeypatch)
    assert without["_place"] >= 3
    assert without == beside


def test_the_engines_own_time_is_what_passes_leave_of_it() -> None:
    turns = offline(bench(model())).serve(requests=4, prompt=20, reply=20)
    assert all(0.0 < turn.passes < turn.seconds for turn in turns if turn.decoding)


def test_requests_that_do_not_fit_are_refused_before_anything_runs() -> None:
    it = bench(model(), PrefixCache(), blocks=50)
    with pytest.raises(ModelError, match="--num-blocks"):
        offline(it).serve(requests=1, prompt=40, reply=30, cached=48)
    assert it.engine.steps == 0
