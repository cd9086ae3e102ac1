"""Greedy tokens equal mlx-lm's own, one sequence at a time, whatever else runs."""

import gc
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import bench, plain, prompt, request
from .speculating import always
from .tiny import ARCHITECTURES, shared_model

TOKENS = 14
LENGTHS = (1, 5, 33, 250, 70, 2, 255, 130, 40, 7, 300, 64, 18, 256, 90, 11)


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


@cache
def expected(name: str, length: int) -> list[int]:
    return plain(model_of(name), prompt(length), TOKENS)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("count", [1, 3, 16])
def test_tokens_equal_mlx_lm_together(name: str, count: int) -> None:
    it = bench(model_of(name))
    for length in LENGTHS[:count]:
        it.submit(request(str(length), prompt(length), TOKENS))
    it.run()
    for length in LENGTHS[:count]:
        assert it.replies.tokens(str(length)) == expected(name, length), length


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [16, 2048], ids=["small chunks", "whole prompts"])
def test_tokens_equal_mlx_lm_while_rows_join_and_leave(name: str, chunk: int) -> None:
    it = bench(model_of(name), decoding=5, chunk_alone=chunk, chunk_shared=chunk)
    for at, length in enumerate(LENGTHS[:10]):
        it.submit(request(str(length), prompt(length), 4 + at))
        it.step(3)
    it.run()
    for at, length in enumerate(LENGTHS[:10]):
        assert it.replies.tokens(str(length)) == expected(name, length)[: 4 + at], length


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "deepseek_v3"])
def test_a_row_that_outgrows_its_bucket_goes_on_exactly(name: str) -> None:
    model = model_of(name)
    it = bench(model)
    for length in (250, 240, 12):
        it.submit(request(str(length), prompt(length), 290))
    it.run()
    for length in (250, 240, 12):
        assert it.replies.tokens(str(length)) == plain(model, prompt(length), 290), length


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "deepseek_v3", "afm7"])
def test_a_preempted_sequence_goes_on_exactly(name: str) -> None:
    it = bench(model_of(name))
    for length in (33, 70, 5):
        it.submit(request(str(length), prompt(length), TOKENS))
    it.step(5)
    scheduler = it.engine.scheduler
    scheduler.preempt(scheduler.decoding[1])
    it.run()
    assert scheduler.preemptions == 1
    for length in (33, 70, 5):
        assert it.replies.tokens(str(length)) == expected(name, length), length


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_compiled_step_gives_the_same_tokens(name: str) -> None:
    it = bench(model_of(name), compiled=True)
    for length in (5, 33, 70):
        it.submit(request(str(length), prompt(length), TOKENS))
    it.run()
    for length in (5, 33, 70):
        assert it.replies.tokens(str(length)) == expected(name, length), length


def test_nothing_is_held_after_the_last_reply() -> None:
    it = bench(model_of("llama"))
    for length in LENGTHS:
        it.submit(request(str(length), prompt(length), TOKENS))
    it.run()
    assert it.engine.scheduler.store.used() == 0
    assert it.engine.scheduler.all == []


@pytest.mark.parametrize("name", ["llama", "qwen3_next", "deepseek_v3", "afm7"])
def test_memory_is_free_again_without_waiting_for_python_to_look_for_circles(name: str) -> None:
    it = bench(model_of(name), PrefixCache(), Ngram(NgramOptions()), always())
    it.submit(request("first", prompt(20), 4))
    it.run()
    gc.collect()
    gc.disable()
    try:
        for length in (33, 70, 5):
            it.submit(request(str(length), prompt(length), TOKENS))
        it.run()
        held = mx.get_active_memory()
        gc.collect()
        assert held == mx.get_active_memory()
    finally:
        gc.enable()
