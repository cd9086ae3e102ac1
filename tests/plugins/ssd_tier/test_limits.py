import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions

from .made_up import SIZES, Fill, OpenTier, blocks, fetch, layout, numbered, run_path, run_paths

DAY = 86400.0


def test_the_size_cap_evicts_the_least_recently_used_tails_first(
    open_tier: OpenTier, tmp_path: Path
) -> None:
    room = 16 * sum(SIZES) + 4096
    tier = open_tier(max_size_gb=2.9 * room / 1e9)
    old, young = numbered(32), numbered(16, 5000)
    tier.store(blocks(old))
    assert tier.flush(10.0)
    tier.store(blocks(young))
    assert tier.flush(10.0)
    for start in (9000, 13000):
        assert len(fetch(tier, old)) >= 16  # used: its head stays
        tier.store(blocks(numbered(16, start)))
        assert tier.flush(10.0)
    assert tier.stats()["evicted_files"] > 0
    assert tier.lookup(young) == 0
    assert tier.lookup(old) >= 16
    assert sum(path.stat().st_size for path in run_paths(tmp_path)) <= 2.9 * room


def test_the_size_cap_counts_other_namespaces(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    filled(numbered(16))
    one = run_paths(tmp_path)[0].stat().st_size
    tier = open_tier(layout(b"m" * 16), max_size_gb=1.5 * one / 1e9)
    tier.store(blocks(numbered(16, root=b"m" * 16)))
    assert tier.flush(10.0)
    assert tier.stats()["evicted_files"] == 1
    assert [path.parent.name for path in run_paths(tmp_path)] == [(b"m" * 16).hex()]


def test_a_run_above_the_cap_is_dropped(open_tier: OpenTier) -> None:
    tier = open_tier(max_size_gb=1e-7)
    tier.store(blocks(numbered(2)))
    assert not tier.flush(10.0)
    assert tier.stats()["dropped_too_large"] == 2


def test_start_deletes_leftovers_and_the_outdated_of_every_namespace(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    mine, fresh = filled(numbered(16)), filled(numbered(16, 900))
    other = tmp_path / "rank_0" / "0123"
    other.mkdir()
    (other / "ab.safetensors.tmp").write_bytes(b"half")
    (other / "cd.safetensors").write_bytes(b"old")
    past = time.time() - 8 * DAY
    os.utime(other / "cd.safetensors", (past, past))
    os.utime(run_path(tmp_path, mine[0]), (past, past))
    tier = open_tier()
    assert (tier.lookup(mine), tier.lookup(fresh)) == (0, 16)
    assert tier.stats()["expired_files"] == 2
    assert tier.stats()["removed_temporaries"] == 1
    assert not other.exists()


def test_reading_keeps_a_file_from_expiring(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    keys = filled(numbered(4))
    (path,) = run_paths(tmp_path)
    past = time.time() - 6 * DAY
    os.utime(path, (past, past))
    tier = open_tier()
    assert fetch(tier, keys) == blocks(keys)
    assert path.stat().st_mtime > past + 5 * DAY


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Return a function by which another process holds a model's folder until the test ends."""
    code = (
        "import sys\n"
        "from mlxserve_plugins.ssd_tier.place import claim\n"
        "from mlxserve_hookspecs import CacheLayout\n"
        "from pathlib import Path\n"
        "layout = CacheLayout(namespace=sys.argv[2].encode(), block_size=4, arrays=())\n"
        "print(claim(layout, Path(sys.argv[1])), flush=True)\n"
        "sys.stdin.read()"
    )
    with ExitStack() as stack:

        def hold(namespace: bytes) -> None:
            command = [sys.executable, "-c", code, str(tmp_path), namespace.decode()]
            other = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(other)
            stack.callback(other.kill)
            assert other.stdout
            assert any("Place(" in line for line in other.stdout)

        yield hold


def test_a_second_server_has_a_folder_of_its_own_and_says_so(
    open_tier: OpenTier, elsewhere: Callable[[bytes], None], tmp_path: Path
) -> None:
    elsewhere(b"z" * 16)
    own = f"rank_0.{(b'n' * 16).hex()[:12]}"
    with structlog.testing.capture_logs() as logs:
        tier = open_tier()
        tier.store(blocks(numbered(3)))
        assert tier.flush(10.0)
        tier.close()
    assert {path.parent.parent.name for path in run_paths(tmp_path)} == {own}
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["folder"] == str(tmp_path / own)
    assert logs[-1]["event"] == "every cached block is on disk"
    assert logs[-1]["blocks_written"] == 3


def test_a_server_finds_its_own_folder_again(
    open_tier: OpenTier, elsewhere: Callable[[bytes], None], tmp_path: Path
) -> None:
    (tmp_path / f"rank_0.{(b'n' * 16).hex()[:12]}").mkdir()
    tier = open_tier()
    tier.store(blocks(numbered(3)))
    assert tier.flush(10.0)
    elsewhere(b"z" * 16)  # finds the shared folder free
    tier.close()
    assert open_tier().lookup(numbered(3)) == 3


def test_a_third_server_of_one_model_keeps_nothing_on_disk_and_says_so(
    elsewhere: Callable[[bytes], None], tmp_path: Path
) -> None:
    elsewhere(b"z" * 16)
    elsewhere(b"n" * 16)
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path))
    with structlog.testing.capture_logs() as logs:
        assert plugin.make_cache_tier(layout()) is None
        stateful = layout(state=(((2, 2), "F32"),))
        assert plugin.make_state_store(stateful) is None
    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert entry["used_by"]
    assert "--ssd-cache-dir" in entry["advice"]


def test_a_rank_of_several_does_not_start_without_its_folder(
    open_tier: OpenTier, tmp_path: Path
) -> None:
    open_tier()
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path))
    with pytest.raises(SettingError, match=f"in use by process {os.getpid()}.*--ssd-cache-dir"):
        plugin.make_cache_tier(layout(size=2))


def test_a_folder_of_a_server_that_ended_is_free(open_tier: OpenTier) -> None:
    open_tier().close()
    open_tier()


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plugin = SsdTier(SsdTierOptions(cache_dir=tmp_path / "file"))
    with pytest.raises(SettingError, match=r"^--ssd-cache-dir: .* cannot be used .*--no-ssd$"):
        plugin.make_cache_tier(layout())


def test_files_are_for_their_owner_only(filled: Fill, tmp_path: Path) -> None:
    filled(numbered(2))
    (path,) = run_paths(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_running_server_expires_what_nobody_used(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    filled(numbered(4))
    filled(numbered(4, root=b"m" * 16), layout=layout(b"m" * 16))
    tier = open_tier()
    space = tier.shelf._writer._space
    space.expire(time.time() + 6 * DAY)
    assert tier.lookup(numbered(4)) == 4
    space.expire(time.time() + 8 * DAY)
    assert tier.lookup(numbered(4)) == 0
    assert tier.stats()["expired_files"] == 2
    assert run_paths(tmp_path) == []


def test_a_run_that_is_being_read_is_not_evicted(open_tier: OpenTier, filled: Fill) -> None:
    keys = filled(numbered(4))
    index = open_tier().shelf._index
    part = index.pin(keys)
    assert part
    assert index.evict() is None
    assert index.clear(lambda _: True) == (0, [])
    index.unpin(part.run, 0.0)
    assert index.evict() is part.run
