"""From cached blocks to a row: find the longest run, load it, write it; alike on all ranks."""

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import Any

import mlx.core as mx
import structlog
from attrs import define, field

from mlxserve.batch.sequence import Inquiry, Part, Restore, Sequence
from mlxserve.cache.finding import Place, cut, locate, longest, runs
from mlxserve.pool.blocks import SCRATCH
from mlxserve.pool.pool import Pool
from mlxserve.pool.table import Row
from mlxserve.pool.transfer import Transfer, bytes_array
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import BlockKey, CacheLayout, RemoteCacheTier, StateStore

log = structlog.get_logger("mlxserve.cache")

QUERY_WAIT, LOAD_WAIT = 0.5, 5.0
"""Seconds that a request waits for a tier to find out what it has, and for what it loads."""


@define(eq=False)
class Restorer:
    """Finds and restores prefixes.

    On several ranks a hit is as long as on the rank that has least: memory holds the same
    everywhere, disks may not, and loads end when they end.

    Attributes:
        memory: What hits in memory are called.
        lookups: Sequences that were looked up.
        hits: Those that found something.
        queried_tokens: Their tokens.
        hit_tokens: Tokens restored, by tier.
        failures: Blocks that a tier returned and that were not what it was asked for.
        arrived: Called, on any thread, when a load has ended.
    """

    pool: Pool
    transfer: Transfer
    layout: CacheLayout
    memory: str
    tiers: Items[RemoteCacheTier] = ()
    states: Items[StateStore] = ()
    agreement: Agreement = ALONE
    arrived: Callable[[object], None] = lambda _future: None
    lookups: int = 0
    hits: int = 0
    queried_tokens: int = 0
    hit_tokens: dict[str, int] = field(factory=dict)
    failures: int = 0

    @property
    def _may_differ(self) -> bool:
        return bool(self.states or self.tiers)

    def agreed(self, *values: int) -> list[int]:
        """Return the least of each value over the ranks, where they can differ at all."""
        return self.agreement.least(values) if self._may_differ else list(values)

    # -- look up -------------------------------------------------------------------------------

    def inquire(self, keys: Items[BlockKey]) -> Inquiry:
        """Let tiers find out what they have of ``keys``."""
        asked = [tier.query(keys) for tier in self.tiers] if keys else []
        answers = tuple(answer for answer in asked if answer is not None)
        for answer in answers:
            answer.add_done_callback(self.arrived)
        return Inquiry(answers, time.monotonic() + QUERY_WAIT)

    def reach(self, keys: Items[BlockKey]) -> int:
        """Return how many blocks could be restored now."""
        if not self.layout.arrays:
            return self._state_at(keys)[0]
        blocks = longest(self.pool, self.tiers, keys, locate(self.pool, self.tiers, keys))
        return self._state_at(keys[:blocks])[0] if self.layout.state else blocks

    def find(self, keys: Items[BlockKey], generation: int) -> Restore:
        """Look for ``keys``, pin what is in memory and start to load the rest."""
        keys = keys[: self.agreed(self.reach(keys))[0]]
        place = locate(self.pool, self.tiers, keys) if self.layout.arrays else Place()
        blocks = len(keys)
        whole = not self.layout.arrays or longest(self.pool, self.tiers, keys, place) == blocks
        state, name = None, ""
        if self.layout.state:
            count, holder = self._state_at(keys)
            whole = whole and count == blocks
            if whole and holder is not None and blocks:
                state, name = holder.fetch(keys[blocks - 1]), holder.name
        # The shortest hit of all ranks may end where this one lacks a window or a state.
        if not self.agreed(int(whole))[0]:
            blocks, state = 0, None
        numbers, first = cut(self.pool, place, blocks)
        parts = []
        for tier, begin, count in runs(place, blocks, self.pool) if self.layout.arrays else ():
            parts.append(Part(tier.name, begin, count, tier.fetch(keys[begin : begin + count])))
        until = time.monotonic() + LOAD_WAIT
        found = Restore(blocks, numbers, first, tuple(parts), state, name, generation, until)
        for future in found.futures:
            future.add_done_callback(self.arrived)
        return found

    def _state_at(self, keys: Items[BlockKey]) -> tuple[int, StateStore | None]:
        """Return the longest prefix whose state is kept, and by whom."""
        best: tuple[int, StateStore | None] = (0, None)
        for store in self.states:
            if (count := store.lookup(keys)) > best[0]:
                best = (count, store)
        return best

    def forget(self, sequence: Sequence) -> None:
        """Let go of what was pinned and asked for."""
        restore, sequence.restore = sequence.restore, None
        if restore is None:
            return
        for future in restore.futures:
            future.cancel()
        self._unpin(restore.numbers)

    def _unpin(self, numbers: Items[Items[int]]) -> None:
        for number, (mine, group) in enumerate(zip(numbers, self.pool.groups, strict=True)):
            if group.blocks.release([n for n in mine if n != SCRATCH]):
                self.pool.reclaim(number, 0)

    # -- restore ---------------------------------------------------------------------------------

    def fill(self, sequence: Sequence) -> None:
        """Put what was found into a sequence's new row; a torn block shortens the hit."""
        restore, sequence.restore = sequence.restore, None
        if restore is None or sequence.row is None:
            return
        self.lookups += 1
        self.queried_tokens += len(sequence.tokens)
        loaded, found = self._loaded(restore, sequence.chain)
        count = self._intact(restore, loaded)
        state = None if restore.state is None else restore.state.result(0)
        for future in restore.futures:
            future.cancel()  # of use to those that are given up
        if self.layout.state and (state is None or count < restore.blocks):
            count = 0  # state without its KV, or KV without its state, is of no use
        count = self.agreed(count)[0]
        if self.layout.state and count < restore.blocks:
            count = 0
        count = self._adopt(sequence.row, restore, count, loaded, sequence.chain)
        if not count:
            return
        if state is not None:
            self._put_state(sequence.row, state)
        sequence.row.length = count * self.layout.block_size
        self._account(sequence, restore, found, count)

    def _loaded(
        self, restore: Restore, chain: Items[BlockKey]
    ) -> tuple[dict[int, tuple[bytes, ...]], dict[str, int]]:
        """Return blocks by place, and how many came from whom."""
        into: dict[int, tuple[bytes, ...]] = {}
        found: dict[str, int] = {}
        for part in restore.parts:
            for at, block in enumerate(part.blocks.result(0), part.first):
                if block.key != chain[at] or not self.transfer.fits(block.arrays):
                    self.failures += 1
                    log.error("a tier returned another block than it was asked for")
                    break
                into[at] = block.arrays
                found[part.tier] = found.get(part.tier, 0) + 1
        return into, found

    def _intact(self, restore: Restore, loaded: Mapping[int, Any]) -> int:
        """Return how many leading blocks are all there."""
        for at in range(restore.blocks if self.layout.arrays else 0):
            lacking = any(
                at >= first and mine[at] == SCRATCH
                for mine, first in zip(restore.numbers, restore.first, strict=True)
            )
            if lacking and (at not in loaded or not self._complete(loaded[at], at, restore)):
                return at
        return restore.blocks

    def _complete(self, arrays: Items[bytes], at: int, restore: Restore) -> bool:
        return all(
            data or at < restore.first[kind.group] or restore.numbers[kind.group][at] != SCRATCH
            for data, kind in zip(arrays, self.transfer.kinds, strict=True)
        )

    def _adopt(
        self,
        row: Row,
        restore: Restore,
        count: int,
        loaded: Mapping[int, tuple[bytes, ...]],
        chain: Items[BlockKey],
    ) -> int:
        """Give the row its blocks; write the loaded ones. A shorter hit may need other windows."""
        needs = [
            [at for at in range(first, count) if mine[at] == SCRATCH]
            for mine, first in zip(restore.numbers, restore.first, strict=True)
        ]
        if count < restore.blocks and any(restore.first):
            count = 0
        if not count or not self._take(restore, needs):
            self._unpin(restore.numbers)
            return 0
        for number, (table, group) in enumerate(zip(row.tables, self.pool.groups, strict=True)):
            mine, first = restore.numbers[number], min(restore.first[number], count)
            group.blocks.release([n for n in mine[count:] if n != SCRATCH])
            table.adopt(mine[:count], first)
        if loaded:
            self.transfer.restore(row, needs, loaded)
        for group, table, places in zip(self.pool.groups, row.tables, needs, strict=True):
            for at in places:
                group.blocks.name(table.numbers[at], chain[at])
        return count

    def _take(self, restore: Restore, needs: Items[Items[int]]) -> bool:
        """Take blocks for what was loaded; return whether there was room."""
        for number, (group, places) in enumerate(zip(self.pool.groups, needs, strict=True)):
            if len(places) > group.blocks.free:
                self.pool.reclaim(number, len(places) - group.blocks.free)
            if len(places) > group.blocks.free:
                return False
        for number, places in enumerate(needs):
            taken = self.pool.take(number, len(places))
            for at, block in zip(places, taken, strict=True):
                restore.numbers[number][at] = block
        return True

    def _put_state(self, row: Row, state: Items[Any]) -> None:
        specs = zip(state, self.layout.state, strict=True)
        arrays = [a if isinstance(a, mx.array) else bytes_array(a, *spec) for a, spec in specs]
        self.pool.set_state(row, arrays)

    def _account(
        self, sequence: Sequence, restore: Restore, found: Mapping[str, int], count: int
    ) -> None:
        if not self.layout.arrays:
            found = {restore.holder: count}
        elif near := count - sum(found.values()):
            found = {self.memory: near, **found}
        for name, blocks in found.items():
            tokens = blocks * self.layout.block_size
            self.hit_tokens[name] = self.hit_tokens.get(name, 0) + tokens
            if sequence.preempted == 0 and tokens:
                sequence.cached[name] = sequence.cached.get(name, 0) + tokens
        self.hits += 1
        sequence.kept = max(sequence.kept, count)
