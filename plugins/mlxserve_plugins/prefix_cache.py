"""Reuse the KV of shared prefixes: keep blocks in memory, least recently used go first."""

from collections import OrderedDict
from collections.abc import Sequence

from attrs import define, field

from mlxserve_hookspecs import BlockKey, CacheLayout, EvictionPolicy, hookimpl


@define
class PrefixCache:
    """Automatic prefix caching in memory, within the budget of ``--num-blocks``."""

    @hookimpl
    def make_eviction_policy(self, layout: CacheLayout) -> EvictionPolicy | None:
        """Answer for every model that has blocks."""
        return LeastRecentlyUsed() if layout.arrays else None


@define(eq=False)
class LeastRecentlyUsed:
    """Unused blocks in the order in which their last users left.

    Whoever used a block used its parents too, and a sequence that ends lets its leaves go first:
    so a block is never older than its leaves.
    """

    name: str = "ram"
    _unused: OrderedDict[bytes, BlockKey] = field(factory=OrderedDict)

    def unused(self, keys: Sequence[BlockKey]) -> None:
        """Put blocks at the end of the line."""
        for key in keys:
            self._unused[key.hash] = key
            self._unused.move_to_end(key.hash)

    def used(self, keys: Sequence[BlockKey]) -> None:
        """Take blocks out of the line."""
        for key in keys:
            self._unused.pop(key.hash, None)

    def victims(self, count: int) -> Sequence[BlockKey]:
        """Return the head of the line."""
        return [key for key, _ in zip(self._unused.values(), range(count), strict=False)]
