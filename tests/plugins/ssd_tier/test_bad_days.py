import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

import pytest

from mlxserve_hookspecs import Block
from mlxserve_plugins.ssd_tier import writer
from mlxserve_plugins.ssd_tier.folder import publish
from mlxserve_plugins.ssd_tier.tier import DiskTier

from .made_up import (
    SIZES,
    Fill,
    OpenTier,
    blocks,
    fetch,
    layout,
    make_tier,
    numbered,
    run_path,
    run_paths,
)

DAY = 86400.0


def test_a_torn_block_shortens_the_hit_and_its_file_is_quarantined(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    keys = filled(numbered(16))
    (path,) = run_paths(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1 - 3 * sum(SIZES)] ^= 1
    path.write_bytes(data)
    tier = open_tier()
    assert tier.lookup(keys) == 16
    assert fetch(tier, keys) == blocks(keys[:12])
    assert tier.lookup(keys) == 0
    assert tier.stats()["quarantined_files"] == 1
    assert len(list((tmp_path / "rank_0" / "quarantine").iterdir())) == 1
    assert run_paths(tmp_path) == []


def test_a_file_that_vanished_is_a_miss(open_tier: OpenTier, filled: Fill, tmp_path: Path) -> None:
    keys = filled(numbered(20))
    tier = open_tier()
    run_path(tmp_path, keys[16]).unlink()
    assert fetch(tier, keys) == blocks(keys[:16])
    assert tier.held() == 16
    assert tier.stats()["quarantined_files"] == 0


def test_a_folder_that_cannot_be_read_is_a_cold_cache(
    open_tier: OpenTier, filled: Fill, tmp_path: Path
) -> None:
    keys = filled(numbered(4))
    (path,) = run_paths(tmp_path)
    path.unlink()
    path.mkdir()
    tier = open_tier()
    assert tier.lookup(keys) == 0
    assert tier.stats()["read_errors"] + tier.stats()["quarantined_files"] == 1


def test_a_full_queue_drops_and_counts(
    open_tier: OpenTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(writer_queue_size=4)
    gate = threading.Event()
    monkeypatch.setattr(tier.shelf._backlog, "work", _held_back(tier, gate))
    tier.store(blocks(numbered(1, 1000)))
    tier.store(blocks(numbered(10)))
    assert tier.stats()["dropped_queue_full"] >= 6
    assert tier.held() <= 4
    gate.set()
    assert tier.flush(10.0)
    assert tier.lookup(numbered(3)) == 3


def _held_back(tier: DiskTier, gate: threading.Event) -> Callable[..., object]:
    work = tier.shelf._backlog.work

    def held_back(now: float, most_wait: float) -> object:
        gate.wait(10.0)
        return work(now, most_wait)

    return held_back


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_full_disk_drops_and_counts_and_serving_goes_on(
    open_tier: OpenTier, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    tier = open_tier(durability="persistent")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "publish", fail)
        tier.store(blocks(numbered(3)))
        assert not tier.flush(10.0)
    assert tier.stats()["dropped_disk_full"] == 3
    assert tier.stats()["write_retries"] == 0
    assert tier.lookup(numbered(3)) == 0
    tier.store(blocks(numbered(3)))
    assert tier.flush(10.0)
    assert fetch(tier, numbered(3)) == blocks(numbered(3))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    with suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            yield disk
            subprocess.run(["umount", str(disk)], check=True)
            return
    pytest.skip("no right to mount a file system")


def test_a_disk_that_is_really_full_loses_blocks_and_nothing_else(tiny_disk: Path) -> None:
    tier = make_tier(tiny_disk, layout())
    keys = numbered(480)
    tier.store(blocks(keys))
    assert not tier.flush(10.0)
    stats = tier.stats()
    assert stats["dropped_disk_full"] > 0
    assert stats["blocks_written"] + stats["dropped_disk_full"] == 480
    assert not list(tiny_disk.rglob("*.tmp"))
    kept = [each for each in keys if tier.lookup([each])]
    assert [fetch(tier, [each])[0] for each in kept] == blocks(kept)
    assert kept
    tier.close()


def test_the_free_space_floor_drops_and_counts(open_tier: OpenTier) -> None:
    tier = open_tier(min_free_gb=1e9)
    tier.store(blocks(numbered(3)))
    assert not tier.flush(10.0)
    assert tier.stats()["dropped_low_space"] == 3


@pytest.mark.parametrize(
    ("durability", "failures", "kept"),
    [("persistent", 2, True), ("persistent", 9, False), ("best_effort", 1, False)],
    ids=["retried", "given up", "not retried"],
)
def test_only_persistent_writes_are_tried_again(
    open_tier: OpenTier,
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    failures: int,
    kept: bool,
) -> None:
    left = [failures]
    real = publish

    def sometimes(path: Path, buffers: Sequence[memoryview], *, durable: bool) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "broken")
        real(path, buffers, durable=durable)

    monkeypatch.setattr(writer, "publish", sometimes)
    monkeypatch.setattr(writer, "FIRST_PAUSE_S", 0.001)
    tier = open_tier(durability=durability, persistent_max_retries=2)
    tier.store(blocks(numbered(3)))
    assert tier.flush(10.0) is kept
    assert tier.lookup(numbered(3)) == (3 if kept else 0)
    assert tier.stats()["dropped_write_error"] == (0 if kept else 3)


def test_persistent_syncs_the_file_and_its_folder_and_best_effort_does_not(
    open_tier: OpenTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(S_ISDIR(os.fstat(fd).st_mode)))
    for durability, expected in (("best_effort", []), ("persistent", [False, True])):
        tier = open_tier(durability=durability)
        tier.store(blocks(numbered(2, len(expected) * 100)))
        assert tier.flush(10.0)
        tier.close()
        assert synced == expected


def test_bytes_of_another_size_are_dropped_and_the_writer_goes_on(open_tier: OpenTier) -> None:
    tier = open_tier()
    tier.store([Block(key=numbered(1, 90)[0], arrays=(b"short", b""))])
    assert not tier.flush(10.0)
    assert tier.stats()["dropped_write_error"] == 1
    tier.store(blocks(numbered(2)))
    assert tier.flush(10.0)
