"""A seeded reply, and one in a form, do not change with where their KV came from.

The pairs of ``docs/composition.md`` that no other test has: sampling and forms beside caches, disk,
quantized KV and drafts, on full attention, with windows and with recurrent layers.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions
from mlxserve_plugins.structured import Structured

from .harness import Bench, bench, prompt, request
from .speculating import Scripted, always, oracle
from .test_ssd_matrix import wait_for_index
from .test_structured import FORM, Bytes
from .tiny import shared_model

HOT = {"temperature": 1.0, "seed": 5, "top_p": 0.9}
ASKED: dict[str, tuple[int, dict[str, Any]]] = {
    "seeded": (90, {"max_tokens": 24, "sampling": HOT}),
    "form": (
        70,
        {"max_tokens": 400, "sampling": HOT, "constraint": FORM, "stop": {"ignore_eos": False}},
    ),
}


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


def engine(name: str, *plugins: object) -> Bench:
    quant = KvQuant(KvQuantOptions(bits=8, attention="dequantize"))
    return bench(model_of(name), quant, Structured(), *plugins, text=Bytes())


@cache
def alone(name: str, kind: str) -> tuple[int, ...]:
    it = engine(name)
    length, wishes = ASKED[kind]
    it.submit(request(kind, prompt(length), **wishes))
    it.run()
    return tuple(it.replies.tokens(kind))


def start(name: str, folder: Path) -> Bench:
    known = {tuple(prompt(length)): alone(name, kind) for kind, (length, _) in ASKED.items()}
    ssd = SsdTierOptions(cache_dir=folder, min_free_gb=0.0, flush_interval_s=0.05)
    states = SequenceCache(SequenceCacheOptions())
    drafts = always(), Scripted(oracle(known, wrong=3))
    it = engine(name, PrefixCache(), SsdTier(ssd), states, *drafts)
    wait_for_index(it)
    return it


def replies(it: Bench, turn: str, *, preempt: bool = False) -> Iterator[tuple[str, Any]]:
    """Ask for all kinds beside a greedy reply; yield each one's tokens and usage."""
    it.submit(request(f"{turn} greedy", prompt(33), 30))
    for kind, (length, wishes) in ASKED.items():
        it.submit(request(f"{turn} {kind}", prompt(length), **wishes))
    if preempt:
        it.step(4)
        scheduler = it.engine.scheduler
        for sequence in tuple(scheduler.decoding):
            scheduler.preempt(sequence)
        assert scheduler.preemptions > 1
    it.run(200_000)
    for kind in ASKED:
        finish = it.replies.finish(f"{turn} {kind}")
        yield kind, (tuple(it.replies.tokens(f"{turn} {kind}")), finish.usage)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next"])
def test_seeds_and_forms_hold_cold_warm_drafted_preempted_and_from_disk(
    name: str, tmp_path: Path
) -> None:
    first = start(name, tmp_path)
    for kind, (tokens, usage) in replies(first, "cold"):
        assert tokens == alone(name, kind)
        assert usage.accepted_draft_tokens > 0
    for turn, preempt in (("warm", False), ("preempted", True)):
        for kind, (tokens, usage) in replies(first, turn, preempt=preempt):
            assert tokens == alone(name, kind), turn
            assert usage.cached_tokens > 0
    assert first.engine.scheduler.cache.close(10.0)
    second = start(name, tmp_path)
    for kind, (tokens, usage) in replies(second, "restarted"):
        assert tokens == alone(name, kind)
        assert any(tier.startswith("ssd") and n for tier, n in usage.cached_by_tier.items())
    assert second.engine.scheduler.cache.close(10.0)
