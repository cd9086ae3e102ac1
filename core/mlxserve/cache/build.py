"""Make the block cache: what blocks look like, who says what leaves, and who holds what left."""

import hashlib
from collections.abc import Callable, Sequence
from typing import cast

from pluggy import PluginManager

from mlxserve.batch.plan import KvPlan
from mlxserve.batch.runner import Runner
from mlxserve.cache.base import Cache, NoCache
from mlxserve.cache.blocks import BlockCache
from mlxserve.cache.restoring import Restorer
from mlxserve.hooks import ask, gather
from mlxserve.pool.pool import Pool
from mlxserve.pool.transfer import NAMES, Transfer
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import CacheLayout, RemoteCacheTier, caching

LAYOUT_VERSION = 2
"""Part of every namespace: raise it when blocks change their meaning."""


def make_cache(
    plugins: PluginManager,
    plan: KvPlan,
    identity: str,
    block_size: int,
    budget: int,
    agreement: Agreement = ALONE,
    wake: Callable[[], None] = lambda: None,
    model: str = "",
) -> Cache:
    """Return the cache of a run; rows without blocks have none.

    Args:
        plugins: Whose hooks are asked.
        plan: How KV is held.
        identity: Names weights, adapter and dtype.
        block_size: Tokens per block.
        budget: Blocks altogether.
        agreement: The ranks'.
        wake: Called, on any thread, when a load has ended.
        model: The model's name, for people.
    """
    if not isinstance(plan.store, Runner):
        return NoCache()
    pool = plan.store.pool
    transfer = Transfer.of(pool)
    rank, size = (0, 1) if agreement.alone else (agreement.group.rank(), agreement.group.size())
    layout = CacheLayout(
        namespace=_namespace(identity, plan.codecs, block_size, transfer, agreement),
        block_size=block_size,
        arrays=tuple(kind.array for kind in transfer.kinds),
        state=tuple((tuple(shape), NAMES[dtype]) for shape, dtype in plan.state),
        budget=budget,
        rank=rank,
        size=size,
        model=model,
    )
    restorer = _restorer(plugins, pool, transfer, layout)
    restorer.agreement, restorer.arrived = agreement, lambda _future: wake()
    blocks = bool(restorer.memory or restorer.tiers)
    return BlockCache(restorer, active=bool(restorer.states) if layout.state else blocks)


def _restorer(
    plugins: PluginManager, pool: Pool, transfer: Transfer, layout: CacheLayout
) -> Restorer:
    """Ask who says what leaves memory, and gather who holds what left."""
    memory = _memory(plugins, pool, layout)
    tiers = gather(plugins, caching.make_cache_tier)(layout=layout) if layout.arrays else []
    states = gather(plugins, caching.make_state_store)(layout=layout) if layout.state else []
    # The door gives each tier the `query` that it may lack.
    return Restorer(pool, transfer, layout, memory, cast(list[RemoteCacheTier], tiers), states)


def _memory(plugins: PluginManager, pool: Pool, layout: CacheLayout) -> str:
    """Give each group of layers its policy; return what hits in memory are called."""
    for group in pool.groups:
        group.blocks.policy = ask(plugins, caching.make_eviction_policy)(layout=layout)
    policies = (group.blocks.policy for group in pool.groups)
    return next((policy.name for policy in policies if policy is not None), "")


def _namespace(
    identity: str,
    codecs: Sequence[str],
    block_size: int,
    transfer: Transfer,
    agreement: Agreement,
) -> bytes:
    part = () if agreement.alone else (agreement.group.rank(), agreement.group.size())
    arrays = tuple(kind.array for kind in transfer.kinds)
    facts = (LAYOUT_VERSION, identity, tuple(codecs), block_size, arrays, *part)
    return hashlib.blake2b(repr(facts).encode(), digest_size=32).digest()
