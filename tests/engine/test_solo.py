"""Models whose caches have no place in a pool: one sequence at a time, and right."""

from functools import cache
from typing import Any

import pytest

from mlxserve.batch.solo import SoloStore
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, bench, plain, prompt, request
from .tiny import shared_model, tiny_model

LENGTHS = (33, 5, 70, 17)


@cache
def model() -> Any:
    return shared_model("llama")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("mlxserve.batch.plan.WAYS", ())
    it = bench(tiny_model("llama"), PrefixCache())  # of which nothing is proved elsewhere
    assert isinstance(it.engine.scheduler.store, SoloStore)
    return it


def test_tokens_are_mlx_lms_while_rows_join_leave_and_give_way(alone: Bench) -> None:
    for length in LENGTHS:
        alone.submit(request(str(length), prompt(length), 14))
        alone.step(3)
    alone.cancel("17")
    alone.engine.scheduler.preempt(alone.engine.scheduler.decoding[0])
    alone.run()
    for length in LENGTHS[:3]:
        assert alone.replies.tokens(str(length)) == plain(model(), prompt(length), 14)
    assert alone.engine.scheduler.all == []


def test_choices_that_fork_are_those_of_the_pool(
    alone: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pooled = bench(model())
    hot = {"temperature": 1.0, "seed": 4}
    for it in (alone, pooled):
        it.submit(request("r", prompt(40), 12, choices=3, sampling=hot))
        it.run()
    for choice in range(3):
        assert alone.replies.tokens("r", choice) == pooled.replies.tokens("r", choice)
