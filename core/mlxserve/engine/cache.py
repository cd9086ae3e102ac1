"""Cached blocks as the loop uses them: look up, restore, keep, give way; tiers do the holding."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from typing import Any, Final

import mlx.core as mx
import structlog
from attrs import define, field

from mlxserve.engine.sequence import Checkpoint, Restore, Sequence
from mlxserve.kv.chain import common, extend, root
from mlxserve.kv.store import BucketStore, RowStore
from mlxserve.kv.transfer import Transfer, array_bytes, bytes_array, put_state, row_state
from mlxserve_hookspecs import Array, Block, BlockKey, CacheLayout, CacheTier, StateStore

log = structlog.get_logger("mlxserve.cache")
REMEMBERED: Final = 65536
"""Block hashes whose having been seen marks where prompts part ways."""


SENT_AT_ONCE: Final = 128
"""Blocks that are handed down together at the end: writers' queues are bounded."""


@define(eq=False)
class BlockCache:
    """Blocks of KV in tiers, nearest first; everything happens on the engine thread.

    Attributes:
        store: The rows.
        transfer: Moves KV between rows and blocks.
        layout: What blocks look like.
        tiers: Who holds blocks.
        states: Who holds checkpoints of recurrent state.
    """

    store: RowStore
    transfer: Transfer
    layout: CacheLayout
    tiers: Items[CacheTier] = ()
    states: Items[StateStore] = ()
    lookups: int = 0
    hits: int = 0
    queried_tokens: int = 0
    hit_tokens: dict[str, int] = field(factory=dict)
    failures: int = 0
    _fresh: list[list[Block]] = field(factory=lambda: [[], [], []])
    _late: list[list[Block]] = field(factory=lambda: [[], [], []])
    _seen: OrderedDict[bytes, None] = field(factory=OrderedDict)

    @property
    def active(self) -> bool:
        """Whether anything is ever kept."""
        return bool(self.states) if self.layout.state else bool(self.tiers)

    @property
    def held(self) -> int:
        """Blocks on the device that only the cache holds."""
        return sum(tier.held() for tier in self.tiers if tier.medium == "device")

    @property
    def room(self) -> int:
        """Blocks that may still be taken on the device."""
        rows = -(-self.store.tokens_held() // self.layout.block_size)
        return self.layout.budget - rows - self.held

    # -- look up -------------------------------------------------------------------------------

    def prepare(self, sequence: Sequence, leaders: Iterable[Sequence]) -> bool:
        """Look up a waiting sequence's prefix and start loading it.

        Returns:
            Whether the sequence may be admitted now: not while its blocks are being loaded, nor
            while another sequence is prefilling a longer part of the same prefix.
        """
        if not self.active:
            return True
        if sequence.restore is None:
            self._extend(sequence)
            sequence.restore = self._find(sequence)
        if not sequence.restore.done:
            return False
        if self._reach(sequence.chain[: self._usable(sequence)]) > sequence.restore.blocks:
            sequence.restore = self._find(sequence)  # more has been kept since
            if not sequence.restore.done:
                return False
        for leader in leaders:
            shared = min(common(sequence.chain, leader.chain), self._usable(sequence))
            if shared > sequence.restore.blocks and not leader.launched:
                sequence.restore = None
                return False
        return True

    def _usable(self, sequence: Sequence) -> int:
        """Full blocks that leave what must run: the last token, or all that is to be scored."""
        asked = sequence.request.prompt_logprobs is not None
        if asked and len(sequence.prompt_logprobs) < sequence.prompt_tokens - 1:
            return 0
        return (len(sequence.tokens) - 1) // self.layout.block_size

    def _extend(self, sequence: Sequence) -> None:
        start = root(self.layout.namespace, sequence.request.cache_salt)
        extend(sequence.chain, sequence.tokens, self.layout.block_size, start)

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

    def _find(self, sequence: Sequence) -> Restore:
        keys = sequence.chain[: self._usable(sequence)]
        places = self._walk(keys)
        blocks = sum(count for _, count in places)
        state, name = None, ""
        if self.layout.state:
            blocks, holder = self._state_at(keys, blocks)
            if holder is not None:
                state, name = holder.fetch(keys[blocks - 1]), holder.name
        parts = []
        at = 0
        for tier, count in places:
            take = min(count, blocks - at)
            if take > 0:
                parts.append((tier.name, tier.fetch(keys[at : at + take])))
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
        blocks: list[tuple[Array, ...]] = []
        found: dict[str, int] = {}
        for name, future in restore.parts:
            whole = self._loaded(name, future.result(), blocks, sequence.chain)
            found[name] = found.get(name, 0) + whole
            if not whole or len(blocks) < sum(found.values()):
                break
        if not self._fill_state(sequence, restore, len(blocks)):
            return
        if blocks:
            self.transfer.restore(sequence.row, blocks)
        sequence.row.length = (
            restore.blocks * self.layout.block_size
            if restore.state
            else (len(blocks) * self.layout.block_size)
        )
        self._account(sequence, found, restore)

    def _loaded(
        self, name: str, loaded: Items[Block], into: list[tuple[Array, ...]], chain: Items[BlockKey]
    ) -> int:
        medium = next(tier.medium for tier in self.tiers if tier.name == name)
        whole = 0
        for block in loaded:
            if block.key != chain[len(into)]:
                self.failures += 1
                log.error("a tier returned another block", tier=name)
                break
            try:
                into.append(self._arrays(block, medium))
            except ValueError:
                self.failures += 1
                log.exception("a tier returned a block of another size", tier=name)
                break
            whole += 1
        return whole

    def _arrays(self, block: Block, medium: str) -> tuple[Array, ...]:
        if medium == "device":
            return block.arrays
        return self.transfer.from_bytes([a for a in block.arrays if isinstance(a, bytes)])

    def _fill_state(self, sequence: Sequence, restore: Restore, blocks: int) -> bool:
        """Restore the recurrent state; without it nothing else may be restored."""
        if not self.layout.state:
            return True
        state = None if restore.state is None else restore.state.result()
        complete = blocks == restore.blocks or not self.layout.groups
        if state is None or not complete or sequence.row is None:
            return False
        specs = zip(state, self.layout.state, strict=True)
        arrays = [a if isinstance(a, mx.array) else bytes_array(a, *spec) for a, spec in specs]
        assert isinstance(self.store, BucketStore)
        put_state(self.store, sequence.row, arrays)
        return True

    def _account(self, sequence: Sequence, found: Mapping[str, int], restore: Restore) -> None:
        if restore.state is not None and not found:
            found = {restore.holder: restore.blocks}
        for name, blocks in found.items():
            tokens = blocks * self.layout.block_size
            self.hit_tokens[name] = self.hit_tokens.get(name, 0) + tokens
            if sequence.preempted == 0 and tokens:
                sequence.cached[name] = sequence.cached.get(name, 0) + tokens
        self.hits += any(found.values())
        sequence.kept = max(sequence.kept, sequence.held // self.layout.block_size)

    # -- keep ------------------------------------------------------------------------------------

    def cut(self, sequence: Sequence) -> int | None:
        """Return the length at which prefill should pause, so that state can be kept there.

        Where this prompt leaves the known ones, and at the last full block: there the next turn
        of a conversation, and the next prompt with the same beginning, go on.
        """
        if not self.layout.state or not self.active:
            return None
        size = self.layout.block_size
        known = next(
            (at for at, k in enumerate(sequence.chain) if k.hash not in self._seen),
            len(sequence.chain),
        )
        usable = self._usable(sequence)
        ends = {min(known, usable) * size, usable * size}
        return min((end for end in ends if end > sequence.held), default=None)

    def keep(self, sequence: Sequence) -> None:
        """Offer blocks that have filled, and remember state at the end of a block."""
        row = sequence.row
        if row is None or not self.active:
            return
        size = self.layout.block_size
        full = min(row.length, len(sequence.tokens)) // size
        at_end = row.length % size == 0 and row.length > 0
        if self.layout.state and at_end and not sequence.overtaken:
            assert isinstance(self.store, BucketStore)
            state = row_state(self.store, row)
            mx.async_eval(*state)  # type: ignore[no-untyped-call]
            sequence.checkpoint = Checkpoint(row.length // size, state)
        if full > sequence.kept:
            self._extend(sequence)
            self._offer_fresh(sequence, full)

    def keep_state(self, sequence: Sequence, *, known: bool = False) -> None:
        """Store a sequence's checkpoint: at a cut of its prefill, and when it leaves its row."""
        checkpoint = sequence.checkpoint
        if checkpoint is None or checkpoint.blocks * self.layout.block_size > len(sequence.tokens):
            return
        self._extend(sequence)
        key = sequence.chain[checkpoint.blocks - 1]
        gone: Items[tuple[BlockKey, tuple[Array | bytes, ...]]] = [(key, checkpoint.state)]
        for store in self.states:
            host = store.medium == "host"
            offered, gone = gone, []
            for each, state in offered:
                mine: tuple[Any, ...] = state
                if host:
                    mine = tuple(array_bytes(a) for a in mine)
                gone = [*gone, *store.store(each, mine)]
        if known:
            for each in sequence.chain[: checkpoint.blocks]:
                self._seen[each.hash] = None
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    def _offer_fresh(self, sequence: Sequence, full: int) -> None:
        row, first = sequence.row, sequence.kept
        assert row is not None
        sequence.kept = full
        keys = sequence.chain[first:full]
        if not self.layout.groups or not keys:
            return
        arrays = self.transfer.export(row, first, len(keys))
        mx.async_eval(*(a for block in arrays for a in block))  # type: ignore[no-untyped-call]
        blocks = [Block(key=k, arrays=a) for k, a in zip(keys, arrays, strict=True)]
        if self.room < len(blocks):
            self.give_back(len(blocks) - self.room)
        near = [t for t in self.tiers if t.wants_fresh and t.medium == "device"]
        fits = blocks[: max(self.room, 0)] if near else []
        for tier in near:
            self._spill(tier.store(fits))
        if near and len(fits) < len(blocks):
            self._late[-1] += blocks[len(fits) :]
        if any(t.wants_fresh and t.medium == "host" for t in self.tiers):
            self._fresh[-1] += blocks

    # -- give way --------------------------------------------------------------------------------

    def give_back(self, blocks: int) -> None:
        """Free device blocks; what gives way goes down a tier."""
        left = blocks
        for tier in reversed([t for t in self.tiers if t.medium == "device"]):
            if left <= 0:
                return
            before = tier.held()
            self._spill(tier.shrink(left))
            left -= before - tier.held()

    def tick(self) -> None:
        """Hand host tiers their blocks, two iterations late: by then the copies are made."""
        self._hand_down(self._fresh.pop(0), self._late.pop(0))
        self._fresh.append([])
        self._late.append([])

    def _hand_down(self, fresh: Items[Block], late: Items[Block]) -> None:
        if fresh:
            self._down(fresh, [t for t in self.tiers if t.medium == "host" and t.wants_fresh])
        self._spill(late)

    def _spill(self, blocks: Items[Block]) -> None:
        if blocks:
            self._down(blocks, [t for t in self.tiers if t.medium == "host"])

    def _down(self, blocks: Items[Block], tiers: Items[CacheTier]) -> None:
        for tier in tiers:
            new = [b for b in blocks if not tier.lookup([b.key])]
            if new:
                # A tier that is full says so in its own counters: what it drops is gone.
                tier.store([self._as_bytes(b) for b in new])

    def _as_bytes(self, block: Block) -> Block:
        arrays: tuple[Any, ...] = block.arrays
        return Block(key=block.key, arrays=self.transfer.to_bytes(arrays))

    def clear(self) -> dict[str, int]:
        """Forget everything; return how much, by tier."""
        self._seen.clear()
        dropped = {tier.name: tier.clear() for tier in self.tiers}
        return dropped | {store.name: store.clear() for store in self.states}

    def stats(self) -> dict[str, dict[str, float]]:
        """Return each tier's figures, and the cache's own under ``all``."""
        mine: dict[str, float] = {
            "lookups": self.lookups,
            "hits": self.hits,
            "queried_tokens": self.queried_tokens,
            "hit_tokens": sum(self.hit_tokens.values()),
            "failures": self.failures,
        }
        found: dict[str, dict[str, float]] = {"all": mine}
        for name, stats in [(t.name, t.stats()) for t in self.tiers]:
            found[name] = dict(stats) | {"hit_tokens": float(self.hit_tokens.get(name, 0))}
        for name, stats in [(s.name, s.stats()) for s in self.states]:
            found[name] = found.get(name, {}) | dict(stats)
        return found

    def _send_down(self, timeout: float) -> None:
        """Give everything that is on the device to the tiers that outlive the process."""
        near = [s for s in self.states if s.medium == "device"]
        for key, state in [pair for store in near for pair in store.shrink(REMEMBERED)]:
            for far in [s for s in self.states if s.medium == "host"]:
                far.store(key, tuple(array_bytes(a) for a in state if isinstance(a, mx.array)))
        while self.held:
            self.give_back(SENT_AT_ONCE)
            for tier in self.tiers:
                tier.flush(timeout)

    def close(self, timeout: float) -> bool:
        """Write out what tiers have pending and release them; return whether all was written."""
        for fresh, late in zip(self._fresh, self._late, strict=True):
            self._hand_down(fresh, late)
        self._send_down(timeout)
        flushed = [tier.flush(timeout) for tier in self.tiers]
        for tier in self.tiers:
            tier.close()
        for store in self.states:
            store.close()
        return all(flushed)
