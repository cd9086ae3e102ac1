import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from attrs import evolve
from safetensors import safe_open

from mlxserve_hookspecs import Block, BlockKey
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions
from mlxserve_plugins.ssd_tier.tier import DiskTier

from .made_up import Fill, OpenTier, block, blocks, fetch, key, layout, numbered, run_paths

DAY = 86400.0


def test_blocks_come_back_bit_for_bit_after_a_restart(open_tier: OpenTier, filled: Fill) -> None:
    keys = filled(numbered(37))
    tier = open_tier()
    assert tier.lookup(keys) == 37
    assert fetch(tier, keys) == blocks(keys)
    assert tier.stats()["blocks_read"] == 37


def test_waiting_blocks_are_found_before_they_are_written(open_tier: OpenTier) -> None:
    tier = open_tier()
    keys = numbered(5)
    tier.store(blocks(keys))
    assert (tier.lookup(keys), tier.held()) == (5, 5)
    future = tier.fetch(keys)
    assert future.done()
    assert list(future.result()) == blocks(keys)
    assert tier.stats()["files_written"] == 0


def test_a_chain_is_found_partly_on_disk_and_partly_in_the_queue(open_tier: OpenTier) -> None:
    tier = open_tier()
    keys = numbered(24)
    tier.store(blocks(keys[:20]))
    assert tier.flush(10.0)
    tier.store(blocks(keys[20:]))
    assert tier.stats()["queued_blocks"] == 4
    assert fetch(tier, keys) == blocks(keys)
    assert fetch(tier, keys[3:22]) == blocks(keys[3:22])


def test_sixteen_neighbours_share_a_file_whatever_order_they_come_in(
    open_tier: OpenTier, tmp_path: Path
) -> None:
    tier = open_tier()
    keys = numbered(32)
    for each in reversed(keys[:16]):  # as a nearer tier gives them up: tails first
        tier.store([block(each)])
    tier.store(blocks(keys[16:]))
    deadline = time.monotonic() + 10.0
    while tier.stats()["queued_blocks"] and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(run_paths(tmp_path)) == 2


def test_a_block_without_neighbours_is_written_after_the_flush_interval(
    open_tier: OpenTier,
) -> None:
    tier = open_tier(flush_interval_s=0.05)
    tier.store(blocks(numbered(1)))
    deadline = time.monotonic() + 10.0
    while not tier.stats()["files_written"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_any_safetensors_reader_opens_a_run(filled: Fill, tmp_path: Path) -> None:
    keys = filled(numbered(3))
    (path,) = run_paths(tmp_path)
    assert path.name == f"{keys[0].hash.hex()}.safetensors"
    assert path.parent.parent == tmp_path / "rank_0"
    with safe_open(path, "np") as file:
        assert file.get_slice("2.0").get_dtype() == "BF16"
        assert file.get_slice("2.0").get_shape() == [2, 2, 4, 8]
        assert file.get_tensor("2.1").tobytes() == block(keys[2]).arrays[1]


def test_a_block_is_not_written_twice(open_tier: OpenTier, filled: Fill, tmp_path: Path) -> None:
    keys = filled(numbered(16))
    tier = open_tier()
    tier.store(blocks(keys))
    assert tier.flush(10.0)
    assert len(run_paths(tmp_path)) == 1
    assert tier.stats()["duplicate_blocks"] == 16


def test_a_known_prefix_does_not_keep_its_continuation_from_disk(
    open_tier: OpenTier, filled: Fill
) -> None:
    keys = filled(numbered(20))
    more = [*keys, key(keys[-1].hash, (7, 7, 7, 7))]
    filled(more)
    assert fetch(open_tier(), more) == blocks(more)


def test_equal_hashes_with_other_tokens_are_no_hit(open_tier: OpenTier, filled: Fill) -> None:
    (real,) = filled(numbered(1))
    forged = BlockKey(real.hash, real.parent, (9, 9, 9, 9))
    tier = open_tier()
    assert tier.lookup([real]) == 1
    assert tier.lookup([forged]) == 0
    assert fetch(tier, [forged]) == []
    tier.store([Block(key=numbered(1, 50)[0], arrays=block(real).arrays)])
    assert tier.lookup([BlockKey(numbered(1, 50)[0].hash, real.parent, (1, 2, 3, 4))]) == 0


def test_the_middle_of_a_chain_is_no_hit_for_another_beginning(
    open_tier: OpenTier, filled: Fill
) -> None:
    keys = filled(numbered(4))
    tier = open_tier()
    assert tier.lookup([numbered(1, 100)[0], *keys[1:]]) == 0
    assert tier.lookup([BlockKey(keys[1].hash, b"x" * 16, keys[1].tokens)]) == 0


def test_another_namespace_or_rank_finds_nothing(open_tier: OpenTier, filled: Fill) -> None:
    keys = filled(numbered(8))
    for other in (layout(b"m" * 16), layout(rank=1, size=2)):
        tier = open_tier(other)
        assert tier.lookup(keys) == 0
        assert fetch(tier, keys) == []
        tier.close()


def test_another_block_size_in_the_same_namespace_is_quarantined_not_read(
    filled: Fill, tmp_path: Path
) -> None:
    keys = filled(numbered(8))
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path))
    tier = plugin.make_cache_tier(evolve(layout(), block_size=8))
    assert isinstance(tier, DiskTier)
    assert tier.shelf.wait_ready(10.0)
    assert tier.lookup(keys) == 0
    assert tier.stats()["quarantined_files"] == 1
    tier.close()


def test_clear_forgets_what_is_written_and_what_waits(open_tier: OpenTier, tmp_path: Path) -> None:
    tier = open_tier()
    keys = numbered(20)
    tier.store(blocks(keys[:16]))
    assert tier.flush(10.0)
    tier.store(blocks(keys[16:]))
    assert tier.clear() == 20
    assert (tier.held(), tier.lookup(keys)) == (0, 0)
    assert tier.flush(10.0)
    assert run_paths(tmp_path) == []
    tier.store(blocks(keys))
    assert tier.flush(10.0)
    assert fetch(tier, keys) == blocks(keys)


def test_without_background_writes_store_returns_when_it_is_on_disk(
    open_tier: OpenTier, tmp_path: Path
) -> None:
    tier = open_tier(async_writes=False)
    tier.store(blocks(numbered(3)))
    assert len(run_paths(tmp_path)) == 1


def test_an_unknown_dtype_is_not_kept(tmp_path: Path) -> None:
    groups = (evolve(layout().arrays[0], dtype="F4"),)
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path))
    assert plugin.make_cache_tier(evolve(layout(), arrays=groups)) is None


@pytest.mark.parametrize(("policy", "wants"), [("evict_only", False), ("write_through", True)])
def test_only_write_through_wants_fresh_blocks(
    open_tier: OpenTier, policy: str, wants: bool
) -> None:
    assert open_tier(policy=policy).wants_fresh is wants


def test_a_cancelled_fetch_is_left_alone(open_tier: OpenTier, filled: Fill) -> None:
    keys = filled(numbered(40))
    tier = open_tier()
    future: Future[Sequence[Block]] = tier.fetch(keys)
    future.cancel()
    assert fetch(tier, keys) == blocks(keys)


def test_after_close_nothing_is_taken_or_given(open_tier: OpenTier) -> None:
    tier = open_tier()
    tier.store(blocks(numbered(2)))
    tier.close()
    tier.close()
    assert tier.stats()["dropped_closing"] == 2
    tier.store(blocks(numbered(2)))
    assert fetch(tier, numbered(2)) == []
