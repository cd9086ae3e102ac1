"""KV that went to disk and came back after a restart gives the tokens of a cold run."""

from pathlib import Path
from typing import Any

import pytest

from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions

from .harness import Bench, bench, prompt, request
from .test_cache_matrix import CACHED, TOKENS, cold, model_of
from .tiny import tiny_model

LENGTHS = (90, 33, 200, 17, 130, 250, 64, 40)


def start(name: str, bits: Any, folder: Path, policy: Any = "evict_only", **changes: Any) -> Bench:
    ssd = SsdTierOptions(cache_dir=folder, policy=policy, min_free_gb=0.0, flush_interval_s=0.05)
    return bench(
        changes.pop("model", None) or model_of(name),
        KvQuant(KvQuantOptions(bits=bits, attention="dequantize")),
        PrefixCache(),
        SsdTier(ssd),
        SequenceCache(SequenceCacheOptions()),
        **changes,
    )


def stop(it: Bench) -> None:
    assert it.engine.scheduler.cache.close(10.0)


def run(it: Bench, turn: str, count: int = len(LENGTHS)) -> None:
    for length in LENGTHS[:count]:
        it.submit(request(f"{turn} {length}", prompt(length), TOKENS))
    it.run(200_000)


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_restarted_server_is_warm_and_exact(name: str, bits: Any, tmp_path: Path) -> None:
    first = start(name, bits, tmp_path)
    run(first, "cold")
    stop(first)
    second = start(name, bits, tmp_path)
    wait_for_index(second)
    run(second, "warm")
    for length in LENGTHS:
        assert second.replies.tokens(f"warm {length}") == cold(name, bits, length)
    tiers = second.replies.finish("warm 250").usage.cached_by_tier
    assert sum(tiers.values()) >= 224
    assert any(tier.startswith("ssd") and count for tier, count in tiers.items())
    stop(second)


@pytest.mark.parametrize("policy", ["evict_only", "write_through"])
def test_evicted_blocks_come_back_from_disk(policy: str, tmp_path: Path) -> None:
    it = start("llama", 8, tmp_path, policy, blocks=48)
    for turn in range(3):
        run(it, str(turn))
        for tier in it.engine.scheduler.cache.tiers:
            tier.flush(10.0)
    for turn in range(3):
        for length in LENGTHS:
            assert it.replies.tokens(f"{turn} {length}") == cold("llama", 8, length)
    hits = it.cache.restorer.hit_tokens
    assert hits["ssd"] > 0
    stop(it)


@pytest.mark.parametrize("change", ["model", "codec", "block size", "identity"])
def test_a_folder_of_another_kind_gives_no_hit(change: str, tmp_path: Path) -> None:
    first = start("llama", 8, tmp_path)
    run(first, "cold")
    stop(first)
    changes: dict[str, Any] = {
        "model": {"model": tiny_model("qwen3", seed=5), "identity": "another"},
        "codec": {},
        "block size": {"block_size": 32},
        "identity": {"identity": "tiny+adapter"},
    }[change]
    second = start("llama", 4 if change == "codec" else 8, tmp_path, **changes)
    wait_for_index(second)
    run(second, "warm")
    for length in LENGTHS:
        assert second.replies.finish(f"warm {length}").usage.cached_tokens == 0
    stop(second)


def test_others_decode_while_blocks_load(tmp_path: Path) -> None:
    first = start("llama", 16, tmp_path)
    first.submit(request("long", prompt(4000), 2))
    first.run()
    stop(first)
    second = start("llama", 16, tmp_path)
    wait_for_index(second)
    second.submit(request("other", prompt(20), 60))
    second.step(5)
    second.submit(request("long", prompt(4000), 2))
    steps = 0
    while not second.replies.of("long") and steps < 5000:
        second.step()
        steps += 1
    assert second.replies.tokens("long")[:1] == first.replies.tokens("long")[:1]
    second.run()
    assert second.replies.finish("long").usage.cached_by_tier == {"ssd": 3984}
    assert len(second.replies.tokens("other")) == 60
    stop(second)


def wait_for_index(it: Bench) -> None:
    """The folder is read in the background; until then less is found, and nothing is wrong."""
    import time

    deadline = time.monotonic() + 10
    cache = it.engine.scheduler.cache
    stats = [t.stats for t in cache.tiers] + [s.stats for s in cache.states]
    while time.monotonic() < deadline:
        if all(stat().get("index_ready", 1.0) for stat in stats):
            return
        time.sleep(0.01)
    raise AssertionError("the index is not ready")
