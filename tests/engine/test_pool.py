"""The pool under the engine: what is shared, what is copied, what is given back."""

import io
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from mlxserve.batch.runner import Runner
from mlxserve.engine.offline import PRIMITIVE, VIEWS
from mlxserve.engine.warming import warm_up
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, bench, plain, prompt, request
from .tiny import shared_model


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


def pool_of(it: Bench) -> Any:
    store = it.engine.scheduler.store
    assert isinstance(store, Runner)
    return store.pool


def test_thirty_two_streams_over_one_prefix_hold_it_once() -> None:
    it = bench(model_of("llama"), PrefixCache(), decoding=32, live=40, prefilling=8)
    prefix = prompt(640)
    for n in range(32):
        it.submit(request(str(n), [*prefix, *prompt(9, n + 1)], 24))
    while len(it.engine.scheduler.decoding) < 32:
        it.step()
    replies = 32 * 3  # each has its own tokens in three blocks at most
    assert it.engine.scheduler.blocks_used() <= 40 + replies
    it.run()
    for n in (0, 31):
        wanted = plain(model_of("llama"), [*prefix, *prompt(9, n + 1)], 24)
        assert it.replies.tokens(str(n)) == wanted


@pytest.mark.parametrize("compiled", [False, True], ids=["in place", "compiled"])
def test_joining_leaving_growing_and_rejected_drafts_copy_no_kv(compiled: bool) -> None:
    it = bench(model_of("llama"), PrefixCache(), compiled=compiled, blocks=400)
    pool = pool_of(it)
    pool.first = 400
    it.submit(request("first", prompt(30), 3))
    it.run()
    before = pool.copied
    for n in range(10):
        it.submit(request(str(n), prompt(20 + 7 * n, n), 40 - 3 * n))
        it.step(3)
    it.cancel("4")
    it.run()
    assert pool.copied == before


def test_choices_share_their_prompt_but_for_its_last_block() -> None:
    it = bench(model_of("llama"))
    it.submit(request("r", prompt(200), 20, choices=4, sampling={"temperature": 1.0, "seed": 1}))
    while len(it.engine.scheduler.decoding) < 4:
        it.step()
    pool = pool_of(it)
    block = pool.token_bytes(pool.groups[0]) * 16
    assert it.engine.scheduler.blocks_used() <= 12 + 4 * 2
    assert pool.copied <= 3 * block
    it.run()


def test_layers_with_a_window_give_back_what_lies_behind_it() -> None:
    it = bench(model_of("gemma3_text"))
    it.submit(request("r", prompt(300), 40))
    while not it.engine.scheduler.decoding:
        it.step()
    windowed = [g for g in pool_of(it).groups if g.window == 32]
    assert len(windowed) == 1
    assert windowed[0].blocks.used <= 32 // 16 + 2
    it.run()
    assert it.replies.tokens("r") == plain(model_of("gemma3_text"), prompt(300), 40)


def test_a_compiled_batch_is_traced_before_anybody_waits_and_not_after() -> None:
    it = bench(model_of("llama"), compiled=True, decoding=8, live=8, blocks=60)
    pool_of(it).first = 60
    warm_up(it.engine, it.inbox)
    for n in range(8):
        it.submit(request(str(n), prompt(15 + n, n), 20 + 2 * n))
        it.step(2)
    it.run()
    assert it.engine.status().counters["traces"] == 0
    for n in range(8):
        assert it.replies.tokens(str(n)) == plain(model_of("llama"), prompt(15 + n, n), 20 + 2 * n)


def test_a_step_has_few_operations_a_layer() -> None:
    """A guard, not a timing: on a GPU a step is bound by how many operations it has."""
    counts = {}
    for bits in (16, 8):
        quant = KvQuant(KvQuantOptions(bits=bits, attention="dequantize"))
        it = bench(model_of("llama"), quant, compiled=True)
        it.submit(request("r", prompt(20), 30))
        it.step(6)
        store = it.engine.scheduler.store
        assert isinstance(store, Runner)
        logits = store.decode(mx.array([5], mx.int32))
        counts[bits] = operations(logits)
    layers = len(model_of("llama").layers)
    assert counts[16] <= 44 * layers + 16
    assert counts[8] <= 62 * layers + 16


def operations(array: mx.array) -> int:
    """Count the primitives that ``array`` waits for, without those that only look."""
    text = io.StringIO()
    export: Any = mx.export_to_dot
    export(text, array)
    return sum(name not in VIEWS for name in PRIMITIVE.findall(text.getvalue()))


def test_planes_are_updated_where_they_are() -> None:
    """Were an old plane held while the next is made, each step would copy the pool."""
    it = bench(model_of("llama"), PrefixCache(), blocks=2000)
    pool = pool_of(it)
    pool.first = 2000
    it.submit(request("r", prompt(20), 60))
    it.step(8)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    it.step(30)
    plane = sum(a.nbytes for a in pool.data[0])
    assert mx.get_peak_memory() - before < plane / 2
