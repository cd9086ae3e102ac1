"""From cached blocks to a row: find the longest run, load it, write it; alike on all ranks."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import mlx.core as mx
import structlog
from attrs import define, field

from mlxserve.engine.agreement import ALONE, Agreement
from mlxserve.engine.sequence import Part, Restore, Sequence
from mlxserve.kv.store import BucketStore, RowStore
from mlxserve.kv.transfer import Transfer, bytes_array, put_state
from mlxserve_hookspecs import Array, Block, BlockKey, CacheLayout, CacheTier, StateStore

log = structlog.get_logger("mlxserve.cache")


@define(eq=False)
class Restorer:
    """Finds and restores prefixes.

    On several ranks a hit is as long as on the rank that has least: tiers in memory hold the
    same everywhere, disks may not, and loads end when they end.

    Attributes:
        lookups: Sequences that were looked up.
        hits: Those that found something.
        queried_tokens: Their tokens.
        hit_tokens: Tokens restored, by tier.
        failures: Blocks that a tier returned and that were not what it was asked for.
    """

    store: RowStore
    transfer: Transfer
    layout: CacheLayout
    tiers: Items[CacheTier] = ()
    states: Items[StateStore] = ()
    agreement: Agreement = ALONE
    lookups: int = 0
    hits: int = 0
    queried_tokens: int = 0
    hit_tokens: dict[str, int] = field(factory=dict)
    failures: int = 0

    def ready(self, sequence: Sequence, keys: Items[BlockKey]) -> bool:
        """Start or continue loading what is kept of ``keys``; return whether it is all there."""
        # Every rank must ask the same questions: what it sees for itself decides none of them.
        restore = sequence.restore
        if restore is not None:
            done, reach = self._agreed(int(restore.done), self._reach(keys))
            if not done or reach <= restore.blocks:
                return bool(done)
        restore = sequence.restore = self._find(keys)
        return bool(self._agreed(int(restore.done))[0])

    def _agreed(self, *values: int) -> list[int]:
        may_differ = self.states or any(tier.medium == "host" for tier in self.tiers)
        return self.agreement.least(values) if may_differ else list(values)

    # -- look up -------------------------------------------------------------------------------

    def _reach(self, keys: Items[BlockKey]) -> int:
        """Return how many blocks could be restored now."""
        blocks = sum(count for _, count in self._walk(keys))
        return self._state_at(keys, blocks)[0] if self.layout.state else blocks

    def _state_at(self, keys: Items[BlockKey], blocks: int) -> tuple[int, StateStore | None]:
        """Return the longest prefix within ``blocks`` whose state is kept, and by whom."""
        reach = keys[:blocks] if self.layout.groups else keys
        best: tuple[int, StateStore | None] = (0, None)
        for store in self.states:
            if (count := store.lookup(reach)) > best[0]:
                best = (count, store)
        return best

    def _find(self, keys: Items[BlockKey]) -> Restore:
        keys = keys[: self._agreed(self._reach(keys))[0]]
        places = self._walk(keys)
        blocks = len(keys)
        state, name = None, ""
        if self.layout.state:
            count, holder = self._state_at(keys, blocks)
            # The shortest hit of all ranks may end where this one has no state.
            if not self._agreed(int(count == blocks))[0]:
                blocks = 0
            elif holder is not None and blocks:
                state, name = holder.fetch(keys[blocks - 1]), holder.name
        parts = []
        at = 0
        for tier, count in places:
            take = min(count, blocks - at)
            if take > 0:
                parts.append(Part(tier.name, take, tier.fetch(keys[at : at + take])))
                at += take
        return Restore(tuple(parts), state, blocks, name)

    def _walk(self, keys: Items[BlockKey]) -> list[tuple[CacheTier, int]]:
        """Return the longest run that all tiers hold together: a short hit hides no long one."""
        places: list[tuple[CacheTier, int]] = []
        at = 0
        while at < len(keys):
            counts = [(tier, tier.lookup(keys[at:])) for tier in self.tiers]
            tier, count = next(((t, n) for t, n in counts if n), (None, 0))
            if tier is None:
                break
            places.append((tier, count))
            at += count
        return places

    # -- restore ---------------------------------------------------------------------------------

    def fill(self, sequence: Sequence) -> None:
        """Write what was loaded into a sequence's new row; a torn block shortens the hit."""
        restore, sequence.restore = sequence.restore, None
        if restore is None or sequence.row is None:
            return
        self.lookups += 1
        self.queried_tokens += len(sequence.tokens)
        blocks, found = self._loaded(restore, sequence.chain)
        state = None if restore.state is None else restore.state.result()
        count = len(blocks) if self.layout.groups else restore.blocks
        if self.layout.state and (state is None or count < restore.blocks):
            count = 0  # state without its KV, or KV without its state, is of no use
        count = self._agreed(count)[0]
        if not count:
            return
        if self.layout.state:
            if count < restore.blocks or state is None:
                return
            self._put_state(sequence, state)
        if blocks:
            self.transfer.restore(sequence.row, blocks[:count])
        sequence.row.length = count * self.layout.block_size
        self._account(sequence, found or {restore.holder: count})

    def _loaded(
        self, restore: Restore, chain: Items[BlockKey]
    ) -> tuple[list[tuple[Array, ...]], dict[str, int]]:
        """Return the blocks up to the first that is torn, and how many came from whom."""
        into: list[tuple[Array, ...]] = []
        found: dict[str, int] = {}
        for part in restore.parts:
            medium = next(tier.medium for tier in self.tiers if tier.name == part.tier)
            whole = self._take(part.blocks.result(), medium, into, chain)
            found[part.tier] = found.get(part.tier, 0) + whole
            if whole < part.count:
                break
        return into, found

    def _take(
        self,
        loaded: Items[Block],
        medium: str,
        into: list[tuple[Array, ...]],
        chain: Items[BlockKey],
    ) -> int:
        for count, block in enumerate(loaded):
            try:
                right = block.key == chain[len(into)]
                arrays = self._arrays(block, medium) if right else ()
            except ValueError:  # of another size
                right = False
            if not right:
                self.failures += 1
                log.error("a tier returned another block than it was asked for")
                return count
            into.append(arrays)
        return len(loaded)

    def _arrays(self, block: Block, medium: str) -> tuple[Array, ...]:
        if medium == "device":
            return block.arrays
        return self.transfer.from_bytes([a for a in block.arrays if isinstance(a, bytes)])

    def _put_state(self, sequence: Sequence, state: Items[Any]) -> None:
        assert isinstance(self.store, BucketStore)
        assert sequence.row is not None
        specs = zip(state, self.layout.state, strict=True)
        arrays = [a if isinstance(a, mx.array) else bytes_array(a, *spec) for a, spec in specs]
        put_state(self.store, sequence.row, arrays)

    def _account(self, sequence: Sequence, found: Mapping[str, int]) -> None:
        for name, blocks in found.items():
            tokens = blocks * self.layout.block_size
            self.hit_tokens[name] = self.hit_tokens.get(name, 0) + tokens
            if sequence.preempted == 0 and tokens:
                sequence.cached[name] = sequence.cached.get(name, 0) + tokens
        self.hits += 1
        # What came from a far tier is offered to the near ones again: used once, used twice.
        near = sum(found.get(t.name, 0) for t in self.tiers if t.medium == "device")
        sequence.kept = max(sequence.kept, near)
