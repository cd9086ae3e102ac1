"""The contracts of what keeps KV: eviction policies, cache tiers."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from math import isfinite
from typing import Any

import pytest
from attrs import evolve
from pluggy import PluginManager

from mlxserve.testing.contracts.base import PROMPT, Contract, added, answer, is_word
from mlxserve.testing.engines import RunningEngine
from mlxserve.testing.processes import until
from mlxserve_hookspecs import Block, BlockArray, BlockKey, CacheLayout, CacheTier, EvictionPolicy
from mlxserve_hookspecs.caching import make_cache_tier, make_eviction_policy

BLOCK_SIZE = 4
ROOT = b"root-of-the-test"
SETTLED_S = 10.0
"""Seconds for a tier's own threads to get something done."""


def layout_of(**changes: Any) -> CacheLayout:
    """Return a layout of blocks of two arrays."""
    fields: dict[str, Any] = {
        "namespace": ROOT,
        "block_size": BLOCK_SIZE,
        "arrays": (
            BlockArray(shape=(2, 2, BLOCK_SIZE, 8), dtype="BF16"),
            BlockArray(shape=(1, 2, BLOCK_SIZE, 2), dtype="U32"),
        ),
        "model": "org/tiny",
    }
    return CacheLayout(**(fields | changes))


def chain(length: int, start: int = 0, parent: bytes = ROOT) -> list[BlockKey]:
    """Return the keys of ``length`` blocks that follow each other; ``start`` tells chains apart."""
    keys: list[BlockKey] = []
    for at in range(length):
        tokens = tuple(range(start + at * BLOCK_SIZE, start + (at + 1) * BLOCK_SIZE))
        name = hashlib.blake2b(parent + repr(tokens).encode(), digest_size=16).digest()
        keys.append(BlockKey(name, parent, tokens))
        parent = name
    return keys


def block(layout: CacheLayout, key: BlockKey) -> Block:
    """Return the block of ``key``: its bytes follow from its hash."""
    parts = [
        hashlib.shake_128(key.hash + bytes([n])).digest(array.nbytes)
        for n, array in enumerate(layout.arrays)
    ]
    return Block(key=key, arrays=tuple(parts))


def query_of(tier: CacheTier) -> Callable[[Sequence[BlockKey]], "Future[object] | None"]:
    """Return the tier's ``query``; skip the test if it knows by itself what it has."""
    if not hasattr(tier, "query"):
        pytest.skip("the tier has no `query`: it need not ask elsewhere")
    found: Callable[[Sequence[BlockKey]], Future[object] | None] = tier.query
    return found


def numbers(stats: object) -> bool:
    """Return whether ``stats`` are finite numbers by name."""
    return isinstance(stats, dict) and all(
        is_word(name) and isinstance(value, int | float) and isfinite(value)
        for name, value in stats.items()
    )


class EvictionPolicyContract(Contract):
    """Of ``make_eviction_policy``: which unused blocks leave memory, and in what order."""

    hooks = (make_eviction_policy,)

    @pytest.fixture
    def policy(self, manager: PluginManager) -> EvictionPolicy:
        """Return the policy."""
        return answer(manager, make_eviction_policy, layout=layout_of())

    def test_name_is_a_word(self, policy: EvictionPolicy) -> None:
        """``name`` is one word: metrics and usage show it."""
        assert is_word(policy.name)

    def test_nothing_leaves_a_fresh_policy(self, policy: EvictionPolicy) -> None:
        """Without unused blocks there are no victims."""
        assert list(policy.victims(3)) == []

    def test_as_many_leave_as_are_asked_for(self, policy: EvictionPolicy) -> None:
        """``victims(n)`` are n unused blocks, each once, where there are as many."""
        keys = chain(6)
        policy.unused(keys[::-1])
        for count in range(7):
            found = list(policy.victims(count))
            assert len(found) == len(set(found)) == count
            assert set(found) <= set(keys)

    def test_leaves_go_before_their_parents(self, policy: EvictionPolicy) -> None:
        """A block leaves after every unused block that goes on from it."""
        trunk = chain(3)
        left, right = (chain(3, start, trunk[-1].hash) for start in (100, 200))
        policy.unused([*left[::-1], *right[::-1], *trunk[::-1]])
        gone: set[bytes] = set()
        for key in policy.victims(9):
            children = {k.hash for k in (*trunk, *left, *right) if k.parent == key.hash}
            assert children <= gone, "a parent leaves before its leaf"
            gone.add(key.hash)

    def test_used_blocks_stay(self, policy: EvictionPolicy) -> None:
        """A block that is used again, or gone, is no victim."""
        old, new = chain(3), chain(2, 300)
        policy.unused(old[::-1])
        policy.unused(new[::-1])
        policy.used(old)
        assert set(policy.victims(2)) == set(new)

    def test_used_blocks_may_be_unknown(self, policy: EvictionPolicy) -> None:
        """``used`` may name blocks that were never unused."""
        policy.used(chain(2))
        policy.unused(chain(1, 300))
        assert list(policy.victims(1)) == chain(1, 300)

    def test_asking_changes_nothing(self, policy: EvictionPolicy) -> None:
        """``victims`` is a question: asked again it answers the same."""
        policy.unused(chain(4)[::-1])
        assert list(policy.victims(2)) == list(policy.victims(2))

    def test_groups_have_policies_of_their_own(self, manager: PluginManager) -> None:
        """Each group of layers gets a policy that knows nothing of the others."""
        one, other = (answer(manager, make_eviction_policy, layout=layout_of()) for _ in range(2))
        one.unused(chain(3)[::-1])
        assert list(other.victims(3)) == []

    def test_engine_replies_the_same(
        self, plugin: object, policy: EvictionPolicy, engine_of: Callable[..., RunningEngine],
        reference_engine: RunningEngine,
    ) -> None:  # fmt: skip
        """A prompt found in memory, under the policy's name, has the reply that it has without."""
        engine = engine_of(plugin, words=("--num-blocks", "12"))
        prompts = [f"{at} {PROMPT * 4}" for at in (1, 2, 3, 3)]
        replies = [engine.reply(prompt) for prompt in prompts]
        assert [reply.tokens for reply in replies] == [
            reference_engine.reply(prompt).tokens for prompt in prompts
        ]
        assert replies[-1].finish.usage.cached_by_tier.get(policy.name)
        assert engine.plugin_errors == {}


class CacheTierContract(Contract):
    """Of ``make_cache_tier``: what is put in comes out as it was, or not at all."""

    hooks = (make_cache_tier,)

    @pytest.fixture
    def layout(self) -> CacheLayout:
        """Return what the blocks look like."""
        return layout_of()

    @pytest.fixture
    def tier(self, manager: PluginManager, layout: CacheLayout) -> Iterator[CacheTier]:
        """Return the tier, ready."""
        tier = added(manager, make_cache_tier, layout=layout)
        until(tier.room, SETTLED_S, lambda: "the tier has no room")
        yield tier
        tier.close()

    @pytest.fixture
    def put(self, tier: CacheTier, layout: CacheLayout) -> Callable[[Sequence[BlockKey]], None]:
        """Return what stores blocks and waits until they are found."""

        def store(keys: Sequence[BlockKey]) -> None:
            tier.store([block(layout, key) for key in keys])
            for key in keys:
                until(partial(tier.lookup, [key]), SETTLED_S, lambda: "not found")

        return store

    def test_name_is_a_word(self, tier: CacheTier) -> None:
        """``name`` is one word: metrics and usage show it."""
        assert is_word(tier.name)

    def test_wants_fresh_is_yes_or_no(self, tier: CacheTier) -> None:
        """``wants_fresh`` is a bool."""
        assert isinstance(tier.wants_fresh, bool)

    def test_room_is_a_number_of_blocks(self, tier: CacheTier) -> None:
        """``room`` is a whole number, not negative."""
        assert isinstance(tier.room(), int)
        assert tier.room() >= 0

    def test_unknown_blocks_are_not_found(self, tier: CacheTier) -> None:
        """A tier does not have what nobody stored."""
        assert tier.lookup(chain(3)) == 0
        assert tier.lookup(()) == 0

    def test_blocks_come_back_as_they_were(
        self, tier: CacheTier, layout: CacheLayout, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """What was stored is found, and fetched bit for bit, in order."""
        keys = chain(5)
        put(keys)
        assert tier.lookup(keys) == 5
        fetched = list(tier.fetch(keys).result(SETTLED_S))
        assert fetched == [block(layout, key) for key in keys]

    def test_blocks_outlive_a_flush(
        self, tier: CacheTier, layout: CacheLayout, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """``flush`` says whether everything was written out; what was is still there."""
        keys = chain(3)
        put(keys)
        assert tier.flush(SETTLED_S) is True
        assert list(tier.fetch(keys).result(SETTLED_S)) == [block(layout, key) for key in keys]

    def test_a_hole_ends_the_run(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """``lookup`` counts from the first key on, up to the first that is missing."""
        keys = chain(5)
        put([*keys[:2], *keys[3:]])
        assert tier.lookup(keys) == 2
        assert tier.lookup(keys[2:]) == 0

    def test_tokens_are_compared(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """A block of the same hash and other tokens is not found."""
        (key,) = chain(1)
        put([key])
        assert tier.lookup([evolve(key, tokens=key.tokens[::-1])]) == 0

    def test_the_same_block_is_held_once(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """A block that is stored again is one block."""
        keys = chain(2)
        put(keys)
        put(keys)
        assert tier.flush(SETTLED_S)
        assert tier.held() == 2

    def test_a_fetch_may_be_cancelled(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """After a fetch that a sequence gave up the blocks can still be had."""
        keys = chain(4)
        put(keys)
        tier.fetch(keys).cancel()
        assert len(tier.fetch(keys).result(SETTLED_S)) == 4

    def test_clear_forgets(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """``clear`` forgets every block and returns how many; none is found after."""
        keys = chain(3)
        put(keys)
        assert tier.flush(SETTLED_S)
        assert tier.clear() == 3
        assert tier.lookup(keys) == 0
        assert tier.held() == 0

    def test_a_query_is_answered(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """``query``, where there is one, ends: then ``lookup`` knows what is here and what is not.

        A query that its request gave up hurts nobody, nor do two at once.
        """
        query = query_of(tier)
        keys, others = chain(3), chain(3, 500)
        put(keys)
        for future in (query(keys), query(others)):
            if future is not None:
                future.cancel()
        pending = [query(asked) for asked in (keys, others, keys, [*keys, *chain(1, 700)])]
        for future in pending:
            if future is not None:
                future.result(SETTLED_S)
        assert tier.lookup(keys) == 3
        assert tier.lookup(others) == 0

    def test_stats_are_numbers_by_name(
        self, tier: CacheTier, put: Callable[[Sequence[BlockKey]], None]
    ) -> None:
        """``stats`` are finite numbers by name, before and after something was stored."""
        assert numbers(dict(tier.stats()))
        put(chain(1))
        assert numbers(dict(tier.stats()))

    def test_engine_replies_the_same(
        self, plugin: object, tier: CacheTier, engine_of: Callable[..., RunningEngine],
        reference_engine: RunningEngine,
    ) -> None:  # fmt: skip
        """Replies are the same with the tier, while blocks leave memory and come back from it."""
        tier.close()
        engine = engine_of(plugin, words=("--num-blocks", "12"))
        prompts = [f"{at} {PROMPT * 4}" for at in (1, 2, 3, 1)]
        replies = [engine.reply(prompt) for prompt in prompts]
        assert [reply.tokens for reply in replies] == [
            reference_engine.reply(prompt).tokens for prompt in prompts
        ]
        assert engine.plugin_errors == {}
        assert replies[-1].finish.usage.cached_by_tier.get(tier.name)
