"""Cached blocks as the loop uses them: look up, restore, keep, give way; tiers do the holding."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Items
from typing import Any, Final

import mlx.core as mx
from attrs import define, evolve, field

from mlxserve.batch.sequence import Checkpoint, Phase, Sequence
from mlxserve.cache.chain import common, extend, root
from mlxserve.cache.restoring import Restorer
from mlxserve.pool.pool import Pool
from mlxserve.pool.transfer import Exported, array_bytes
from mlxserve_hookspecs import Array, Block, BlockKey, CacheTier, StateStore

REMEMBERED: Final = 65536
"""Block hashes whose having been seen marks where prompts part ways."""

AT_ONCE: Final = 64
"""Blocks that give way together: exports are made in runs."""

Going = tuple[Exported, Items[BlockKey], Items[CacheTier]]


@define(eq=False)
class BlockCache:
    """The pool's full blocks by what they hold, and the tiers below it. Engine thread.

    Attributes:
        restorer: Finds and restores.
        stored: Blocks that could be found.
        evicted: Unused blocks that gave way.
        generation: Rises when more could be found than before.
    """

    restorer: Restorer
    active: bool
    stored: int = 0
    evicted: int = 0
    generation: int = 0
    _going: list[list[Going]] = field(factory=lambda: [[], [], []])
    _seen: OrderedDict[bytes, None] = field(factory=OrderedDict)

    def __attrs_post_init__(self) -> None:
        self.pool.reclaim = self.reclaim

    @property
    def pool(self) -> Pool:
        """The blocks."""
        return self.restorer.pool

    @property
    def tiers(self) -> Items[CacheTier]:
        """Who holds blocks below memory."""
        return self.restorer.tiers

    @property
    def states(self) -> Items[StateStore]:
        """Who holds checkpoints of recurrent state."""
        return self.restorer.states

    @property
    def held(self) -> int:
        """Blocks in memory that only the cache holds."""
        return self.pool.groups[0].blocks.unused if self.pool.groups else 0

    # -- look up -------------------------------------------------------------------------------

    def prepare(self, sequence: Sequence, leaders: Iterable[Sequence]) -> bool:
        """Look up a waiting sequence's prefix and start loading it; once, unless more came.

        Returns:
            Whether the sequence may be admitted now: not while its blocks are being loaded, nor
            while another sequence is prefilling a longer part of the same prefix.
        """
        if not self.active:
            return True
        if sequence.behind is not None:
            if sequence.behind.phase is Phase.PREFILLING:
                return False
            sequence.behind = None
        self._extend(sequence)
        keys = sequence.chain[: self._usable(sequence)]
        if not self._ready(sequence, keys) or sequence.restore is None:
            return False
        for leader in leaders:
            shared = min(common(sequence.chain, leader.chain), self._usable(sequence))
            if shared > sequence.restore.blocks and not leader.launched:
                self.restorer.forget(sequence)
                sequence.behind = leader
                return False
        return True

    def _ready(self, sequence: Sequence, keys: Items[BlockKey]) -> bool:
        """Return whether all that is kept of ``keys`` is there."""
        # Every rank must ask the same questions: what it sees for itself decides none of them.
        restore, restorer = sequence.restore, self.restorer
        if restore is not None:
            if restorer.agreement.alone and restore.seen == self.generation:
                return restore.done
            done, reach = restorer.agreed(int(restore.done), restorer.reach(keys))
            if not done or reach <= restore.blocks:
                restore.seen = self.generation
                return bool(done)
            restorer.forget(sequence)
        if not self._inquired(sequence, keys):
            return False
        restore = sequence.restore = restorer.find(keys, self.generation)
        return bool(restorer.agreed(int(restore.done))[0])

    def _inquired(self, sequence: Sequence, keys: Items[BlockKey]) -> bool:
        """Return whether tiers know by now what they have of ``keys``; ask them once."""
        inquiry = sequence.inquiry
        if inquiry is None:
            inquiry = sequence.inquiry = self.restorer.inquire(keys)
        if not self.restorer.agreed(int(inquiry.done))[0]:
            return False
        for answer in inquiry.answers:
            answer.result(0)  # whoever failed is named for it
        sequence.inquiry = evolve(inquiry, answers=())
        return True

    def _close(self, sequence: Sequence) -> None:
        inquiry, sequence.inquiry = sequence.inquiry, None
        for answer in inquiry.answers if inquiry is not None else ():
            answer.cancel()

    def fill(self, sequence: Sequence) -> None:
        """Put what was found into a sequence's new row."""
        self._close(sequence)
        self.restorer.fill(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Let go of what was looked up for a sequence that leaves the queue."""
        self._close(sequence)
        self.restorer.forget(sequence)

    def _usable(self, sequence: Sequence) -> int:
        """Full blocks that leave what must run: the last token, or all that is to be scored."""
        asked = sequence.request.prompt_logprobs is not None
        if asked and len(sequence.prompt_logprobs) < sequence.prompt_tokens - 1:
            return 0
        return (len(sequence.tokens) - 1) // self.pool.size

    def _extend(self, sequence: Sequence) -> None:
        start = root(self.restorer.layout.namespace, sequence.request.cache_salt)
        extend(sequence.chain, sequence.tokens, self.pool.size, start)

    # -- keep ------------------------------------------------------------------------------------

    def cut(self, sequence: Sequence) -> int | None:
        """Return the length at which prefill should pause, so that state can be kept there.

        Where this prompt leaves the known ones, where its request says that others will leave it,
        and at the last full block: there the next turn of a conversation, and the next prompt
        with the same beginning, go on.
        """
        if not self.restorer.layout.state or not self.active:
            return None
        size = self.pool.size
        known = next(
            (at for at, k in enumerate(sequence.chain) if k.hash not in self._seen),
            len(sequence.chain),
        )
        usable = self._usable(sequence)
        ends = {known, usable, *(tokens // size for tokens in sequence.request.parting)}
        return min(
            (n * size for n in ends if sequence.held < n * size <= usable * size), default=None
        )

    def keep(self, sequence: Sequence) -> None:
        """Let blocks that have filled be found, and remember state at the end of a block."""
        row, size = sequence.row, self.pool.size
        if row is None:
            return
        if self.active:
            full = min(row.length, len(sequence.tokens)) // size
            at_end = row.length % size == 0 and row.length > 0
            if self.restorer.layout.state and at_end and not sequence.overtaken:
                state = self.pool.state_of(row)
                mx.async_eval(*state)  # type: ignore[no-untyped-call]
                sequence.checkpoint = Checkpoint(row.length // size, state)
            if full > sequence.kept:
                self._extend(sequence)
                self._name(sequence, full)
        self.pool.trim(row)

    def _name(self, sequence: Sequence, full: int) -> None:
        row, first = sequence.row, sequence.kept
        assert row is not None
        sequence.kept = full
        keys = sequence.chain[first:full]
        if not self.pool.groups:
            return
        for group, table in zip(self.pool.groups, row.tables, strict=True):
            for number, key in zip(table.numbers[first:full], keys, strict=True):
                if number:
                    group.blocks.name(number, key)
        self.generation += 1
        self.stored += full - first
        if fresh := [t for t in self.tiers if t.wants_fresh]:
            self._send([t.numbers[first:full] for t in row.tables], keys, fresh)

    def keep_state(self, sequence: Sequence, *, known: bool = False) -> None:
        """Store a sequence's checkpoint: at a cut of its prefill, and when it leaves its row."""
        checkpoint = sequence.checkpoint
        if checkpoint is None or checkpoint.blocks * self.pool.size > len(sequence.tokens):
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
        self.generation += 1
        if known:
            for each in sequence.chain[: checkpoint.blocks]:
                self._seen[each.hash] = None
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)

    # -- give way --------------------------------------------------------------------------------

    def reclaim(self, number: int, blocks: int) -> None:
        """Free unused blocks of a group; what leaves the first one goes down a tier."""
        group = self.pool.groups[number]
        if group.blocks.policy is None:
            victims = group.blocks.keys_unused()
        else:
            together = min(AT_ONCE, group.blocks.unused // 8)
            victims = group.blocks.victims(max(blocks, together) if blocks else 0)
        if not victims:
            return
        if number == 0:
            self.evicted += len(victims)
            self._spill([key for _, key in victims])
        group.blocks.drop(n for n, _ in victims)

    def _spill(self, keys: Items[BlockKey]) -> None:
        """Hand blocks down, parents first, as many as the tiers have room for."""
        for tier in self.tiers:
            new = [key for key in reversed(keys) if not tier.lookup([key])][: max(tier.room(), 0)]
            if new:
                held = [[g.blocks.find(key) or 0 for key in new] for g in self.pool.groups]
                self._send(held, new, [tier])

    def _send(
        self, numbers: Items[Items[int]], keys: Items[BlockKey], tiers: Items[CacheTier]
    ) -> None:
        if all(tier.lookup(keys) == len(keys) for tier in tiers):
            return
        exported = self.restorer.transfer.export(numbers)
        mx.async_eval(*exported.arrays)  # type: ignore[no-untyped-call]
        self._going[-1].append((exported, keys, tiers))

    def tick(self) -> None:
        """Hand tiers their blocks, two iterations late: by then the copies are made."""
        self._hand_down(self._going.pop(0))
        self._going.append([])

    def _hand_down(self, going: Items[Going]) -> None:
        for exported, keys, tiers in going:
            arrays: list[tuple[bytes, ...]] | None = None
            for tier in tiers:
                room = tier.room()
                new = [at for at, key in enumerate(keys) if not tier.lookup([key])][:room]
                if new:
                    arrays = arrays or exported.to_bytes()
                    tier.store([Block(key=keys[at], arrays=arrays[at]) for at in new])
                    self.generation += 1

    def discard(self) -> None:
        """Drop what is on its way down and everything in memory: it cannot be trusted."""
        self._going = [[], [], []]
        self.pool.renew()

    def clear(self) -> dict[str, int]:
        """Forget everything; return how much, by tier."""
        self._seen.clear()
        dropped = {self.restorer.memory: self.held}
        for group in self.pool.groups:
            group.blocks.drop([n for n, _ in group.blocks.keys_unused()])
        dropped |= {tier.name: tier.clear() for tier in self.tiers}
        return dropped | {store.name: store.clear() for store in self.states}

    def stats(self) -> dict[str, dict[str, float]]:
        """Return each tier's figures, and the cache's own under ``all``."""
        it = self.restorer
        found: dict[str, dict[str, float]] = {
            "all": {
                "lookups": it.lookups,
                "hits": it.hits,
                "queried_tokens": it.queried_tokens,
                "hit_tokens": sum(it.hit_tokens.values()),
                "failures": it.failures,
            }
        }
        if self.pool.groups and self.pool.groups[0].blocks.policy is not None:
            mine = {"blocks": self.held, "stored": self.stored, "evicted": self.evicted}
            found[it.memory] = {**mine, "hit_tokens": it.hit_tokens.get(it.memory, 0)}
        for name, stats in [(t.name, t.stats()) for t in self.tiers]:
            found[name] = dict(stats) | {"hit_tokens": float(it.hit_tokens.get(name, 0))}
        for name, stats in [(s.name, s.stats()) for s in self.states]:
            found[name] = found.get(name, {}) | dict(stats)
        return found

    # -- the end ---------------------------------------------------------------------------------

    def _send_down(self, timeout: float) -> None:
        """Give everything that is in memory to the tiers that outlive the process."""
        near = [s for s in self.states if s.medium == "device"]
        for key, state in [pair for store in near for pair in store.shrink(REMEMBERED)]:
            for far in [s for s in self.states if s.medium == "host"]:
                far.store(key, tuple(array_bytes(a) for a in state if isinstance(a, mx.array)))
        deadline = time.monotonic() + timeout
        # A disk that is too slow must not hold the end up.
        while self.tiers and self.held and time.monotonic() < deadline:
            self.reclaim(0, AT_ONCE)
            self._flush_going()
            for tier in self.tiers:
                tier.flush(max(deadline - time.monotonic(), 0.0))

    def _flush_going(self) -> None:
        for going in self._going:
            self._hand_down(going)
        self._going = [[], [], []]

    def close(self, timeout: float) -> bool:
        """Write out what tiers have pending and release them; return whether all was written."""
        self._flush_going()
        self._send_down(timeout)
        flushed = [tier.flush(timeout) for tier in self.tiers]
        ends: list[CacheTier | StateStore] = [*self.tiers, *self.states]
        for each in ends:
            each.close()
        return all(flushed)
