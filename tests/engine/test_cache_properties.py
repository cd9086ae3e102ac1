"""Whatever is stored, evicted, reloaded and asked for, in any order: never a wrong hit."""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions

from .harness import Bench, bench, prompt, request
from .tiny import shared_model

TOKENS = 6
SEGMENTS = [prompt(length, seed) for seed, length in enumerate((16, 31, 48, 5, 20))]
"""Prompts are made of these in any order: prefixes, tails and repetitions overlap."""

prompts = st.lists(st.integers(0, len(SEGMENTS) - 1), min_size=1, max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(prompts, min_size=1, max_size=4)),
        st.tuples(st.just("evict"), st.integers(1, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    min_size=2,
    max_size=7,
)


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


def quantized() -> KvQuant:
    return KvQuant(KvQuantOptions(bits=8, attention="dequantize"))


def tokens_of(parts: list[int]) -> list[int]:
    return [token for part in parts for token in SEGMENTS[part]]


@cache
def cold(name: str, parts: tuple[int, ...]) -> tuple[list[int], list[float]]:
    it = bench(model_of(name), quantized())
    it.submit(request("r", tokens_of(list(parts)), TOKENS, logprobs=0))
    it.run()
    return it.replies.tokens("r"), [p.logprob for p in it.replies.logprobs("r")]


def start(name: str, folder: Path) -> Bench:
    ssd = SsdTierOptions(cache_dir=folder, min_free_gb=0.0, flush_interval_s=0.01)
    states = SequenceCache(SequenceCacheOptions(size=4))
    return bench(model_of(name), quantized(), PrefixCache(), SsdTier(ssd), states, blocks=160)


def stop(it: Bench) -> None:
    it.engine.scheduler.cache.close(10.0)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next"])
@given(script=steps)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_no_script_gives_other_tokens_than_a_cold_run(name: str, script: list[Any]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mlxserve-cache-"))
    it = start(name, folder)
    try:
        for number, (what, detail) in enumerate(script):
            if what == "restart":
                stop(it)
                it = start(name, folder)
            elif what == "evict":
                it.cache.reclaim(0, detail)
            else:
                for at, parts in enumerate(detail):
                    asked = request(f"{number}-{at}", tokens_of(parts), TOKENS, logprobs=0)
                    it.submit(asked)
                it.run(200_000)
                for at, parts in enumerate(detail):
                    wanted, scores = cold(name, tuple(parts))
                    assert it.replies.tokens(f"{number}-{at}") == wanted
                    got = [p.logprob for p in it.replies.logprobs(f"{number}-{at}")]
                    assert got == pytest.approx(scores, abs=0.05)
    finally:
        stop(it)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_hundred_requests_never_exceed_the_budget() -> None:
    numbers = random.Random(4)
    it = bench(model_of("llama"), quantized(), PrefixCache(), blocks=120, decoding=6)
    asked = [tokens_of(numbers.choices(range(5), k=numbers.randint(1, 6))) for _ in range(200)]
    waiting = list(enumerate(asked))
    scheduler = it.engine.scheduler
    while waiting or it.inbox or not scheduler.idle:
        if waiting and numbers.random() < 0.4:
            number, tokens = waiting.pop()
            it.submit(request(str(number), tokens, numbers.randint(1, 40)))
        it.step() if waiting or it.inbox or not scheduler.idle else None
        assert scheduler.blocks_used() + scheduler.cache.held <= 120
    ends = [e.finish for e in it.replies.events if e.finish]
    assert len(ends) == 200
    assert {end.reason for end in ends} == {"length"}
    assert scheduler.store.used() == 0
