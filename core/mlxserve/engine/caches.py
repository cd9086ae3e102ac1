"""Make the block cache: what blocks look like, and who holds them."""

import hashlib
from collections.abc import Sequence

from pluggy import PluginManager

from mlxserve.engine.agreement import ALONE, Agreement
from mlxserve.engine.cache import BlockCache
from mlxserve.hooks import gather
from mlxserve.kv.plan import KvPlan
from mlxserve.kv.store import BucketStore
from mlxserve.kv.transfer import NAMES, Transfer
from mlxserve_hookspecs import CacheLayout, caching

LAYOUT_VERSION = 1
"""Part of every namespace: raise it when blocks change their meaning."""


def make_cache(
    plugins: PluginManager,
    plan: KvPlan,
    identity: str,
    block_size: int,
    budget: int,
    agreement: Agreement = ALONE,
) -> BlockCache:
    """Return the cache of a run; without rows in buckets, or without tiers, it keeps nothing."""
    store = plan.store
    if not isinstance(store, BucketStore):
        empty = CacheLayout(namespace=b"", block_size=block_size, groups=(), budget=budget)
        return BlockCache(store, Transfer((), (), block_size), empty)
    transfer = Transfer.of(store, block_size)
    layout = CacheLayout(
        namespace=_namespace(identity, plan.codecs, block_size, transfer, agreement),
        block_size=block_size,
        groups=transfer.groups,
        state=tuple((tuple(shape), NAMES[dtype]) for shape, dtype in plan.state),
        budget=budget,
        rank=0 if agreement.alone else agreement.group.rank(),
        size=1 if agreement.alone else agreement.group.size(),
    )
    tiers = gather(plugins, caching.make_cache_tier)(layout=layout) if transfer.groups else []
    states = gather(plugins, caching.make_state_store)(layout=layout) if layout.state else []
    return BlockCache(
        store,
        transfer,
        layout,
        tuple(t for t in tiers if t is not None),
        tuple(s for s in states if s is not None),
        agreement,
    )


def _namespace(
    identity: str,
    codecs: Sequence[str],
    block_size: int,
    transfer: Transfer,
    agreement: Agreement,
) -> bytes:
    part = () if agreement.alone else (agreement.group.rank(), agreement.group.size())
    facts = (LAYOUT_VERSION, identity, tuple(codecs), block_size, transfer.groups, *part)
    return hashlib.blake2b(repr(facts).encode(), digest_size=32).digest()
