"""Cached blocks as the loop uses them: look up, restore, keep, give way; tiers do the holding."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from typing import Any, Final

import mlx.core as mx
import structlog
from attrs import define, field

from mlxserve.engine.agreement import ALONE, Agreement
from mlxserve.engine.restoring import Restorer
from mlxserve.engine.sequence import Checkpoint, Sequence
from mlxserve.kv.chain import common, extend, root
from mlxserve.kv.store import BucketStore, RowStore
from mlxserve.kv.transfer import Transfer, array_bytes, row_state
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
    agreement: Agreement = ALONE
    restorer: Restorer = field(init=False)
    _fresh: list[list[Block]] = field(factory=lambda: [[], [], []])
    _late: list[list[Block]] = field(factory=lambda: [[], [], []])
    _seen: OrderedDict[bytes, None] = field(factory=OrderedDict)

    def __attrs_post_init__(self) -> None:
        self.restorer = Restorer(
            self.store, self.transfer, self.layout, self.tiers, self.states, self.agreement
        )

    @property
    def hit_tokens(self) -> Mapping[str, int]:
        """Tokens restored, by tier."""
        return self.restorer.hit_tokens

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
        self._extend(sequence)
        keys = sequence.chain[: self._usable(sequence)]
        if not self.restorer.ready(sequence, keys) or sequence.restore is None:
            return False
        for leader in leaders:
            shared = min(common(sequence.chain, leader.chain), self._usable(sequence))
            if shared > sequence.restore.blocks and not leader.launched:
                sequence.restore = None
                return False
        return True

    def fill(self, sequence: Sequence) -> None:
        """Write what was loaded into a sequence's new row."""
        self.restorer.fill(sequence)

    def _usable(self, sequence: Sequence) -> int:
        """Full blocks that leave what must run: the last token, or all that is to be scored."""
        asked = sequence.request.prompt_logprobs is not None
        if asked and len(sequence.prompt_logprobs) < sequence.prompt_tokens - 1:
            return 0
        return (len(sequence.tokens) - 1) // self.layout.block_size

    def _extend(self, sequence: Sequence) -> None:
        start = root(self.layout.namespace, sequence.request.cache_salt)
        extend(sequence.chain, sequence.tokens, self.layout.block_size, start)

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
            "lookups": self.restorer.lookups,
            "hits": self.restorer.hits,
            "queried_tokens": self.restorer.queried_tokens,
            "hit_tokens": sum(self.hit_tokens.values()),
            "failures": self.restorer.failures,
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
        deadline = time.monotonic() + timeout
        before = self.held + 1
        # A tier that gives nothing back, or a disk that is too slow, must not hold the end up.
        while 0 < self.held < before and time.monotonic() < deadline:
            before = self.held
            self.give_back(SENT_AT_ONCE)
            for tier in self.tiers:
                tier.flush(max(deadline - time.monotonic(), 0.0))

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
