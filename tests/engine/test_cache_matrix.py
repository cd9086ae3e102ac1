"""Cached KV gives the tokens of a cold run, whatever the codec, the model and the company."""

from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import QuantizedKVCache

from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions

from .harness import Bench, bench, prompt, request
from .tiny import ARCHITECTURES, shared_model, tiny_model

TOKENS, LONG = 10, 60
CACHED = list(ARCHITECTURES)


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


def caching(name: str, bits: Any, **changes: Any) -> Bench:
    quant = KvQuant(KvQuantOptions(bits=bits, attention="dequantize"))
    states = SequenceCache(SequenceCacheOptions())
    return bench(model_of(name), quant, PrefixCache(), states, **changes)


@cache
def cold(name: str, bits: Any, length: int, tokens: int = TOKENS) -> list[int]:
    it = bench(model_of(name), KvQuant(KvQuantOptions(bits=bits, attention="dequantize")))
    it.submit(request("r", prompt(length), tokens))
    it.run()
    return it.replies.tokens("r")


def ask(it: Bench, name: str, length: int) -> list[int]:
    it.submit(request(name, prompt(length), TOKENS))
    it.run()
    return it.replies.tokens(name)


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_warm_request_gives_the_cold_tokens(name: str, bits: Any) -> None:
    it = caching(name, bits)
    for length in (90, 33, 250):
        first = ask(it, f"cold {length}", length)
        again = ask(it, f"warm {length}", length)
        assert first == again == cold(name, bits, length)
        usage = it.replies.finish(f"warm {length}").usage
        assert usage.cached_tokens >= (length - 1) // 16 * 16 - 16
        assert it.replies.finish(f"cold {length}").usage.cached_tokens == 0


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("bits", [16, 8])
def test_warm_requests_in_a_batch_of_eight_give_the_cold_tokens(name: str, bits: Any) -> None:
    it = caching(name, bits)
    lengths = (90, 33, 250, 17, 64, 130, 40, 5)
    for turn in ("cold", "warm"):
        for length in lengths:
            it.submit(request(f"{turn} {length}", prompt(length), TOKENS))
        it.run()
        for length in lengths:
            assert it.replies.tokens(f"{turn} {length}") == cold(name, bits, length)
    assert it.replies.finish("warm 250").usage.cached_tokens >= 224


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("bits", [16, 8])
def test_every_turn_of_a_conversation_hits_its_replies_too(name: str, bits: Any) -> None:
    it = caching(name, bits)
    plain = bench(model_of(name), KvQuant(KvQuantOptions(bits=bits, attention="dequantize")))
    history, length_before = prompt(40), 0
    for turn in range(4):
        for each in (it, plain):
            each.submit(request(str(turn), history, 23))
            each.run()
        reply = it.replies.tokens(str(turn))
        assert reply == plain.replies.tokens(str(turn))
        cached = it.replies.finish(str(turn)).usage.cached_tokens
        if turn:
            assert cached >= length_before - 32, (turn, cached, length_before)
        length_before = len(history) + len(reply)
        history = [*history, *reply, *prompt(9, seed=turn + 1)]


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("bits", [16, 8])
def test_tokens_survive_eviction_and_preemption(name: str, bits: Any) -> None:
    it = caching(name, bits, blocks=64)  # four rows of 256 tokens, or cache
    lengths = (90, 33, 200, 17, 130, 220, 60)
    for turn in range(2):
        for length in lengths:
            it.submit(request(f"{turn} {length}", prompt(length), LONG))
        while it.inbox or not it.engine.scheduler.idle:
            it.step()
            scheduler = it.engine.scheduler
            assert scheduler.blocks_used() + scheduler.cache.held <= 64
    if name != "mamba2":  # whose layers have no blocks
        assert it.engine.scheduler.preemptions > 0
    for length in lengths:
        wanted = cold(name, bits, length, LONG)
        for turn in range(2):
            assert it.replies.tokens(f"{turn} {length}") == wanted


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("attention", ["dequantize", "quantized"])
def test_quantized_tokens_equal_mlx_lms_quantized_cache(
    name: str, bits: Any, attention: Any
) -> None:
    model = model_of(name)
    it = bench(model, KvQuant(KvQuantOptions(bits=bits, attention=attention)))
    lengths = (5, 33, 130, 70)
    for length in lengths:
        it.submit(request(str(length), prompt(length), TOKENS))
    it.run()
    for length in lengths:
        caches = [QuantizedKVCache(64, bits) for _ in model.layers]
        steps = generate_step(
            mx.array(prompt(length)), model, max_tokens=TOKENS, prompt_cache=caches
        )
        assert it.replies.tokens(str(length)) == [int(t) for t, _ in steps][:TOKENS]


def test_two_equal_prompts_that_arrive_together_prefill_once() -> None:
    it = caching("llama", 16, chunk_alone=64, chunk_shared=64)
    for name in ("a", "b", "c"):
        it.submit(request(name, prompt(300), TOKENS))
    it.run()
    for name in ("a", "b", "c"):
        assert it.replies.tokens(name) == cold("llama", 16, 300)
    assert it.replies.finish("a").usage.cached_tokens == 0
    for name in ("b", "c"):
        assert it.replies.finish(name).usage.cached_by_tier == {"ram": 288}


def test_state_is_kept_where_a_request_says_that_others_part() -> None:
    cached = {}
    for parting in ((), (70,)):
        it = caching("qwen3_next", 16)
        for name, seed in (("first", 1), ("second", 2)):
            it.submit(request(name, [*prompt(70), *prompt(90, seed)], TOKENS, parting=parting))
            it.run()
        cached[parting] = it.replies.finish("second").usage.cached_tokens
    assert cached == {(): 0, (70,): 64}


def test_another_context_shares_nothing() -> None:
    it = caching("llama", 16)
    x, y, z = prompt(48, 1), prompt(48, 2), prompt(48, 3)
    it.submit(request("a", [*x, *y], TOKENS))
    it.run()
    it.submit(request("b", [*y, *z], TOKENS))
    it.run()
    assert it.replies.finish("b").usage.cached_tokens == 0


def test_a_salt_shares_with_its_own_kind_only() -> None:
    it = caching("llama", 16)
    for name, salt in (("a", "one"), ("b", "two"), ("c", "one"), ("d", "")):
        it.submit(request(name, prompt(90), TOKENS, cache_salt=salt))
        it.run()
    cached = [it.replies.finish(name).usage.cached_tokens for name in "abcd"]
    assert cached == [0, 0, 80, 0]


def test_kv_8_takes_little_more_than_half_of_bf16() -> None:
    def nbytes(bits: Any) -> int:
        model = tiny_model("llama")
        model.set_dtype(mx.bfloat16)
        it = bench(model, KvQuant(KvQuantOptions(bits=bits)))
        pool = it.engine.scheduler.store.pool  # type: ignore[attr-defined]
        return sum(pool.token_bytes(group) for group in pool.groups)

    assert nbytes(8) / nbytes(16) <= 0.54


def test_one_long_row_does_not_widen_short_ones() -> None:
    it = caching("llama", 16, blocks=2048)
    for n in range(7):
        it.submit(request(f"short {n}", prompt(200, n), 40))
    it.submit(request("long", prompt(3000), 4))
    while not any(s.request.id == "long" for s in it.engine.scheduler.decoding):
        it.step()
    assert it.engine.scheduler.store.used() * 16 <= 1.1 * (3000 + 7 * 240)
