import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlxserve_hookspecs import BlockKey
from mlxserve_plugins.ssd_tier.folder import headers
from mlxserve_plugins.ssd_tier.runfile import TornFileError

from .made_up import blocks, fetch, layout, make_tier, run_paths

ROOT = Path(__file__).parents[3]
KILLS = 1000 if os.environ.get("MLXSERVE_TEST_LONG") else 60
CHECK_EVERY = 5
LONGEST_LIFE_S = 0.08


class Victims:
    """A process that forks writers, to be killed one after the other."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.plugins.ssd_tier.crash_writer", str(folder)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def kill_one(self, seed: int, after: float) -> None:
        """Start a writer, and kill it ``after`` seconds."""
        assert self.process.stdin
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        child = self._number()
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(self._number()) == -signal.SIGKILL

    def end(self) -> None:
        """End the process; no writer is left."""
        self.process.communicate(timeout=20.0)
        assert self.process.returncode == 0

    def _number(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    victims = Victims(tmp_path)
    yield victims
    victims.end()


def listed(folder: Path) -> Iterator[Sequence[BlockKey]]:
    """Yield the keys of every file whose header can be read."""
    for path in run_paths(folder):
        try:
            yield [stored.key for stored in headers(path)]
        except TornFileError:
            continue


def cut_short(folder: Path) -> int:
    """Cut a file anywhere, as a power cut may; return how many files that were."""
    path = random.choice([*run_paths(folder), None])
    if path is None:
        return 0
    os.truncate(path, random.randrange(path.stat().st_size))
    return 1


def test_writers_killed_at_any_moment_leave_no_wrong_and_no_torn_hit(
    tmp_path: Path, victims: Victims
) -> None:
    random.seed(3)
    warm = torn = quarantined = 0
    for kill in range(1, KILLS + 1):
        victims.kill_one(seed=kill, after=random.uniform(0.0, LONGEST_LIFE_S))
        if kill % CHECK_EVERY:
            continue
        torn += cut_short(tmp_path)
        runs = list(listed(tmp_path))
        tier = make_tier(tmp_path, layout())
        assert tier.shelf.wait_ready(20.0)
        for keys in runs:
            found = fetch(tier, keys)
            assert found == blocks(keys)
            warm += len(found)
        quarantined += int(tier.stats()["quarantined_files"])
        tier.close()
        assert not list(tmp_path.rglob("*.tmp"))
    assert warm > 0
    assert torn > 0
    assert quarantined == torn
