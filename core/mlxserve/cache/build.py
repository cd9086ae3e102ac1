"""Make the block cache: what blocks look like, who says what leaves, and who holds what left."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pluggy import PluginManager

from mlxserve.batch.plan import KvPlan
from mlxserve.batch.runner import Runner
from mlxserve.batch.sequence import Sequence as Live
from mlxserve.cache.blocks import BlockCache
from mlxserve.cache.restoring import Restorer
from mlxserve.hooks import ask, gather
from mlxserve.pool.transfer import NAMES, Transfer
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import CacheLayout, caching

LAYOUT_VERSION = 2
"""Part of every namespace: raise it when blocks change their meaning."""


class Cache(Protocol):
    """What the loop needs of a cache; see ``BlockCache``."""

    held: int
    tiers: Sequence[Any]
    states: Sequence[Any]

    def prepare(self, sequence: Live, leaders: Any) -> bool: ...  # noqa: D102
    def fill(self, sequence: Live) -> None: ...  # noqa: D102
    def forget(self, sequence: Live) -> None: ...  # noqa: D102
    def cut(self, sequence: Live) -> int | None: ...  # noqa: D102
    def keep(self, sequence: Live) -> None: ...  # noqa: D102
    def keep_state(self, sequence: Live, *, known: bool = False) -> None: ...  # noqa: D102
    def tick(self) -> None: ...  # noqa: D102
    def discard(self) -> None: ...  # noqa: D102
    def clear(self) -> dict[str, int]: ...  # noqa: D102
    def stats(self) -> dict[str, dict[str, float]]: ...  # noqa: D102
    def close(self, timeout: float) -> bool: ...  # noqa: D102


class NoCache:
    """Keeps nothing: for rows that have no blocks."""

    held = 0
    tiers: Sequence[Any] = ()
    states: Sequence[Any] = ()

    def prepare(self, sequence: Live, leaders: Any) -> bool:
        """Let everybody in."""
        del sequence, leaders
        return True

    def fill(self, sequence: Live) -> None:
        """Find nothing."""

    def forget(self, sequence: Live) -> None:
        """Have nothing to let go of."""

    def cut(self, sequence: Live) -> int | None:
        """Pause nowhere."""
        del sequence
        return None

    def keep(self, sequence: Live) -> None:
        """Keep nothing."""

    def keep_state(self, sequence: Live, *, known: bool = False) -> None:
        """Keep nothing."""

    def tick(self) -> None:
        """Hand nothing down."""

    def discard(self) -> None:
        """Have nothing to drop."""

    def clear(self) -> dict[str, int]:
        """Forget nothing."""
        return {}

    def stats(self) -> dict[str, dict[str, float]]:
        """Return no figures."""
        return {}

    def close(self, timeout: float) -> bool:
        """Write nothing."""
        del timeout
        return True


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
    layout = CacheLayout(
        namespace=_namespace(identity, plan.codecs, block_size, transfer, agreement),
        block_size=block_size,
        arrays=tuple(kind.array for kind in transfer.kinds),
        state=tuple((tuple(shape), NAMES[dtype]) for shape, dtype in plan.state),
        budget=budget,
        rank=0 if agreement.alone else agreement.group.rank(),
        size=1 if agreement.alone else agreement.group.size(),
        model=model,
    )
    policies = [ask(plugins, caching.make_eviction_policy)(layout=layout) for _ in pool.groups]
    for group, policy in zip(pool.groups, policies, strict=True):
        group.blocks.policy = policy
    tiers = gather(plugins, caching.make_cache_tier)(layout=layout) if layout.arrays else []
    states = gather(plugins, caching.make_state_store)(layout=layout) if layout.state else []
    near = next((policy.name for policy in policies if policy is not None), "")
    restorer = Restorer(
        pool,
        transfer,
        layout,
        near,
        tuple(t for t in tiers if t is not None),
        tuple(s for s in states if s is not None),
        agreement,
        lambda _future: wake(),
    )
    blocks = bool(near or restorer.tiers)
    return BlockCache(restorer, active=bool(restorer.states) if layout.state else blocks)


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
