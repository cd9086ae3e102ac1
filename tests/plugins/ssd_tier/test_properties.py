import os
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlxserve_hookspecs import BlockKey
from mlxserve_plugins.ssd_tier.backlog import chains
from mlxserve_plugins.ssd_tier.folder import publish, verify_file
from mlxserve_plugins.ssd_tier.runfile import Shapes, TornFileError, encode
from mlxserve_plugins.ssd_tier.tier import DiskTier

from .made_up import BLOCK_SIZE, block, blocks, chain, fetch, layout, make_tier, numbered, run_paths

SHAPES = Shapes.of(layout())
RUN = b"".join(encode(SHAPES, blocks(numbered(3)))) if SHAPES else b""

prompts = st.lists(st.integers(0, 1), min_size=BLOCK_SIZE, max_size=BLOCK_SIZE * 8)


@given(st.lists(prompts, max_size=6), st.integers(1, 5), st.randoms(use_true_random=False))
def test_chains_hold_each_block_once_and_in_order(
    tokens: list[list[int]], longest: int, random: object
) -> None:
    wanted = {key.hash: key for prompt in tokens for key in chain(prompt)}
    keys = list(wanted.values())
    random.shuffle(keys)  # type: ignore[attr-defined]
    runs = chains(blocks(keys), longest)
    assert sorted(b.key.hash for run in runs for b in run) == sorted(wanted)
    for run in runs:
        assert 1 <= len(run) <= longest
        assert all(b.key.parent == a.key.hash for a, b in pairwise(run))


def test_chains_of_hashes_in_a_circle_end() -> None:
    a, b = BlockKey(b"a", b"b", (1,)), BlockKey(b"b", b"a", (2,))
    itself = BlockKey(b"c", b"c", (3,))
    runs = chains([block(key) for key in (a, b, itself)], 16)
    assert sorted(each.key.hash for run in runs for each in run) == [b"a", b"b", b"c"]


@given(st.integers(0, len(RUN) - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=300)
def test_a_changed_byte_never_passes(at: int, change: int) -> None:
    changed = bytearray(RUN)
    changed[at] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        path.write_bytes(changed)
        try:
            found = verify_file(path)
        except TornFileError:
            return
        # Only a key can change unseen here: it is compared with the one that is asked for.
        assert [b.key for b in found] != numbered(3) or _same_bytes(path, found)


def _same_bytes(path: Path, found: Sequence[object]) -> bool:
    """Return whether all the data, which begins at the first block, is as it was written."""
    start = found[0].start  # type: ignore[attr-defined]
    return path.read_bytes()[start:] == RUN[start:]


@given(st.integers(0, len(RUN) - 1))
@settings(deadline=None, max_examples=200)
def test_a_file_that_ends_anywhere_too_early_never_passes(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        publish(path, [memoryview(RUN)[:length]], durable=False)
        try:
            verify_file(path)
        except TornFileError:
            return
        raise AssertionError(f"{length} bytes of {len(RUN)} passed")


class TierMachine(RuleBasedStateMachine):
    """Stores, restarts, damage and queries in any order: a hit is never wrong."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.stored: set[bytes] = set()
        self.damaged = False
        self.tier = self._open()

    def _open(self) -> DiskTier:
        tier = make_tier(Path(self.folder.name), layout(), writer_queue_size=10**6)
        assert tier.shelf.wait_ready(10.0)
        return tier

    @rule(prompt=prompts)
    def store(self, prompt: list[int]) -> None:
        self.tier.store(blocks(chain(prompt)))
        self.stored |= {key.hash for key in chain(prompt)}

    @rule(prompt=prompts)
    def store_tails_first(self, prompt: list[int]) -> None:
        for key in reversed(chain(prompt)):
            self.tier.store([block(key)])
        self.stored |= {key.hash for key in chain(prompt)}

    @rule(prompt=prompts)
    def query(self, prompt: list[int]) -> None:
        keys = chain(prompt)
        count = self.tier.lookup(keys)
        found = fetch(self.tier, keys[:count])
        assert found == blocks(keys[: len(found)])
        if not self.damaged:
            known = next((n for n, k in enumerate(keys) if k.hash not in self.stored), len(keys))
            assert len(found) == count == known

    @rule()
    def flush(self) -> None:
        assert self.tier.flush(10.0)

    @rule()
    def restart(self) -> None:
        assert self.tier.flush(10.0)
        self.tier.close()
        self.tier = self._open()

    @rule()
    def clear(self) -> None:
        self.tier.clear()
        self.stored.clear()

    @rule(which=st.integers(0, 100), at=st.floats(0, 1, exclude_max=True))
    def damage(self, which: int, at: float) -> None:
        assert self.tier.flush(10.0)  # nothing is on its way in or out
        paths = run_paths(Path(self.folder.name))
        if paths:
            path = paths[which % len(paths)]
            data = bytearray(path.read_bytes())
            data[int(at * len(data))] ^= 0x5A
            path.write_bytes(data)
            self.damaged = True

    @invariant()
    def held_is_what_was_stored(self) -> None:
        if hasattr(self, "tier") and not self.damaged:
            assert len(self.stored) <= self.tier.held()

    def teardown(self) -> None:
        if hasattr(self, "tier"):
            self.tier.close()
            self.folder.cleanup()


TestTierMachine = TierMachine.TestCase
TestTierMachine.settings = settings(
    deadline=None, max_examples=int(os.environ.get("MLXSERVE_TEST_EXAMPLES", "25"))
)
