"""The two faces of a shelf: a tier of blocks, and a store of state checkpoints."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Final, Literal, TypeAlias

from attrs import define

from mlxserve_hookspecs import Array, Block, BlockKey, CacheLayout
from mlxserve_plugins.ssd_tier import SsdTierOptions
from mlxserve_plugins.ssd_tier.place import claim
from mlxserve_plugins.ssd_tier.runfile import STATE_MARK, Shapes, state_key
from mlxserve_plugins.ssd_tier.shelf import Shelf

State: TypeAlias = tuple[Array | bytes, ...]

Shelves: TypeAlias = dict[tuple[int, bytes], Shelf | None]
"""The shelves of one plugin, by rank and namespace; ``None``: there is no folder for it."""

LAST_WRITES_S: Final = 5.0
"""How long a store of states, which nobody flushes, waits for its last writes at the end."""


def open_tier(layout: CacheLayout, options: SsdTierOptions, shelves: Shelves) -> "DiskTier | None":
    """Return the tier of a layout; ``None`` if its dtypes are unknown, or its folder is in use.

    Raises:
        SettingError: The folder cannot be used.
    """
    shelf = _shelf(layout, options, shelves)
    if shelf is None:
        return None
    tier = DiskTier(shelf, options.policy == "write_through")
    shelf.share(tier)
    return tier


def open_states(
    layout: CacheLayout, options: SsdTierOptions, shelves: Shelves
) -> "DiskStates | None":
    """Return the state store of a layout; ``None`` as for ``open_tier``.

    Raises:
        SettingError: As for ``open_tier``.
    """
    shelf = _shelf(layout, options, shelves)
    if shelf is None:
        return None
    states = DiskStates(shelf)
    shelf.share(states)
    return states


def _shelf(layout: CacheLayout, options: SsdTierOptions, shelves: Shelves) -> Shelf | None:
    shapes = Shapes.of(layout)
    if shapes is None:
        return None
    name = (layout.rank, layout.namespace)
    known = shelves.get(name)
    if name not in shelves or (known is not None and known.closed):
        place = claim(layout, options.cache_dir)
        shelves[name] = None if place is None else Shelf(layout, shapes, options, place)
    return shelves[name]


@define(eq=False)
class DiskTier:
    """Blocks on disk: a ``CacheTier`` of bytes."""

    shelf: Shelf
    wants_fresh: bool = False
    name: str = "ssd"

    def room(self) -> int:
        """Return how many blocks the queue of the writer takes."""
        return self.shelf.room

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of ``keys``, from the first on, are here; tokens are compared."""
        return next((at for at, key in enumerate(keys) if not self.shelf.has(key)), len(keys))

    def fetch(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Load blocks; the future yields the longest intact run."""
        return self.shelf.load(keys)

    def store(self, blocks: Sequence[Block]) -> None:
        """Queue blocks to be written; what gives way on disk is deleted."""
        self.shelf.put(blocks)

    def held(self) -> int:
        """Return how many blocks are here, those on their way included."""
        return self.shelf.held

    def clear(self) -> int:
        """Forget every block that is not being read; the files go in the background."""
        return self.shelf.clear(lambda name: not name.endswith(STATE_MARK))

    def stats(self) -> Mapping[str, float]:
        """Return totals and gauges, those of state checkpoints included."""
        return self.shelf.stats()

    def flush(self, timeout: float) -> bool:
        """Write what waits within ``timeout`` seconds; return whether all of it was written."""
        return self.shelf.flush(timeout)

    def close(self) -> None:
        """Stop threads and let go of the folder."""
        self.shelf.release(self)


@define(eq=False)
class DiskStates:
    """State checkpoints on disk: a ``StateStore`` of bytes."""

    shelf: Shelf
    name: str = "ssd-states"
    medium: Literal["device", "host"] = "host"

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return the longest prefix whose state is here; tokens are compared."""
        counts = range(len(keys), 0, -1)
        return next((n for n in counts if self.shelf.has(state_key(keys[n - 1]))), 0)

    def fetch(self, key: BlockKey) -> "Future[State | None]":
        """Load the state after ``key``; ``None`` if it turned out torn or gone."""
        state: Future[State | None] = Future()

        def hand_over(loaded: "Future[Sequence[Block]]") -> None:
            if state.set_running_or_notify_cancel():
                found = loaded.result()
                state.set_result(found[0].arrays if found else None)

        self.shelf.load([state_key(key)]).add_done_callback(hand_over)
        return state

    def store(self, key: BlockKey, state: State) -> Sequence[tuple[BlockKey, State]]:
        """Queue a checkpoint to be written; return nothing, as the tier does."""
        arrays = tuple(part for part in state if isinstance(part, bytes))
        self.shelf.put([Block(key=state_key(key), arrays=arrays)])
        return ()

    def shrink(self, states: int) -> Sequence[tuple[BlockKey, State]]:
        """Give nothing back: the folder prunes itself."""
        del states
        return ()

    def clear(self) -> int:
        """Forget every checkpoint that is not being read."""
        return self.shelf.clear(lambda name: name.endswith(STATE_MARK))

    def stats(self) -> Mapping[str, float]:
        """Return how many checkpoints are here; the tier's figures count their bytes."""
        states = self.shelf.count(lambda name: name.endswith(STATE_MARK))
        return {"states": float(states), "index_ready": self.shelf.stats()["index_ready"]}

    def close(self) -> None:
        """Write what waits, stop threads and let go of the folder."""
        if not self.shelf.closed:
            self.shelf.flush(LAST_WRITES_S)
        self.shelf.release(self)
