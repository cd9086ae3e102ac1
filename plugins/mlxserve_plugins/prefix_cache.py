"""Reuse the KV of shared prefixes: keep blocks in memory, least recently used go first."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from attrs import define, field

from mlxserve_hookspecs import Block, BlockKey, CacheLayout, CacheTier, hookimpl


@define
class PrefixCache:
    """Automatic prefix caching in memory, within the budget of ``--num-blocks``."""

    @hookimpl
    def make_cache_tier(self, layout: CacheLayout) -> CacheTier | None:
        """Answer for every model that has blocks."""
        return RamTier() if layout.groups else None


@define(eq=False)
class RamTier:
    """Blocks as device arrays. The core says how many may stay: it knows what rows need."""

    name: str = "ram"
    medium: Literal["device", "host"] = "device"
    wants_fresh: bool = True
    evicted: int = 0
    stored: int = 0
    _blocks: OrderedDict[bytes, Block] = field(factory=OrderedDict)

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Count leading keys that are here with the same tokens."""
        for count, key in enumerate(keys):
            block = self._blocks.get(key.hash)
            if block is None or block.key != key:
                return count
        return len(keys)

    def fetch(self, keys: Sequence[BlockKey]) -> Future[Sequence[Block]]:
        """Return the blocks at once."""
        found = [self._blocks[key.hash] for key in keys]
        self._touch(keys)
        future: Future[Sequence[Block]] = Future()
        future.set_result(found)
        return future

    def store(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """Take all of them: nothing gives way here on its own."""
        for block in blocks:
            if block.key.hash not in self._blocks:
                self._blocks[block.key.hash] = block
                self.stored += 1
        self._touch([block.key for block in blocks])
        return ()

    def shrink(self, blocks: int) -> Sequence[Block]:
        """Drop the least recently used."""
        count = min(blocks, len(self._blocks))
        gone = [self._blocks.popitem(last=False)[1] for _ in range(count)]
        self.evicted += count
        return gone

    def held(self) -> int:
        """Return how many blocks are here."""
        return len(self._blocks)

    def clear(self) -> int:
        """Forget everything."""
        count = len(self._blocks)
        self._blocks.clear()
        return count

    def stats(self) -> Mapping[str, float]:
        """Return totals and the present count."""
        return {"blocks": self.held(), "stored": self.stored, "evicted": self.evicted}

    def flush(self, timeout: float) -> bool:
        """Have nothing to write."""
        del timeout
        return True

    def close(self) -> None:
        """Drop everything."""
        self._blocks.clear()

    def _touch(self, keys: Sequence[BlockKey]) -> None:
        # Tail first: of a chain the head is the most recent, so that tails go before heads.
        for key in reversed(keys):
            self._blocks.move_to_end(key.hash)
