from pathlib import Path

from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions
from mlxserve_plugins.ssd_tier.tier import DiskStates, DiskTier

from .made_up import blocks, fetch, layout, numbered

DAY = 86400.0


def test_state_checkpoints_share_the_folder_and_survive(tmp_path: Path) -> None:
    hybrid = layout(state=(((1, 3), "F32"), ((2,), "BF16")))
    state = (b"s" * 12, b"t" * 4)
    keys = numbered(5)
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path, min_free_gb=0.0))
    tier, states = plugin.make_cache_tier(hybrid), plugin.make_state_store(hybrid)
    assert isinstance(tier, DiskTier)
    assert isinstance(states, DiskStates)
    tier.store(blocks(keys))
    assert list(states.store(keys[2], state)) == []
    assert (tier.lookup(keys), states.lookup(keys)) == (5, 3)
    tier.close()
    states.close()

    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path, min_free_gb=0.0))
    states, tier = plugin.make_state_store(hybrid), plugin.make_cache_tier(hybrid)
    assert isinstance(states, DiskStates)
    assert isinstance(tier, DiskTier)
    assert tier.shelf.wait_ready(10.0)
    assert (states.lookup(keys), states.lookup(keys[:2])) == (3, 0)
    assert states.fetch(keys[2]).result(10.0) == state
    assert fetch(tier, keys) == blocks(keys)
    assert states.stats() == {"states": 1.0, "index_ready": 1.0}
    assert (tier.clear(), states.lookup(keys), states.clear()) == (5, 3, 1)
    assert states.fetch(keys[2]).result(10.0) is None
    states.close()
    tier.close()


def test_no_state_store_without_state(tmp_path: Path) -> None:
    assert SsdTier(SsdTierOptions(cache_dir=tmp_path)).make_state_store(layout()) is None
