"""Hooks that keep KV for later: tiers of blocks, and checkpoints of recurrent state."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol

from attrs import field, frozen

from mlxserve_hookspecs.arrays import Array
from mlxserve_hookspecs.markers import hookspec


@frozen
class BlockKey:
    """The identity of ``block_size`` tokens of KV in their context.

    ``hash = H(parent, tokens)``; the first block's parent is the namespace: model identity,
    adapter, codecs, dtype, layout version, rank of size and the request's cache salt.

    Attributes:
        hash: 16 bytes or more.
        parent: The hash of the block before it, or of the namespace.
        tokens: The block's tokens: a hit compares them.
    """

    hash: bytes
    parent: bytes
    tokens: tuple[int, ...] = field(repr=False)


@frozen(kw_only=True)
class GroupSpec:
    """One array of every block: all planes of a kind, stacked.

    Attributes:
        planes: How many (layers times sides times planes of that kind).
        heads: Key-value heads.
        width: Width of the planes.
        dtype: The dtype's name as safetensors knows it, e.g. ``BF16``, ``U32``.
    """

    planes: int
    heads: int
    width: int
    dtype: str


@frozen(kw_only=True)
class CacheLayout:
    """What all blocks of a run look like.

    Attributes:
        namespace: The root of every chain (without a request's salt).
        block_size: Tokens per block.
        groups: A block's arrays: ``[planes, heads, block_size, width]`` each.
        state: The recurrent layers' arrays for one sequence, as (shape, dtype's name): a model
            that has any resumes only where a checkpoint of them was kept.
        rank: This process among ``size`` that share the model.
        size: How many ranks.
        budget: Blocks that live rows and device tiers may hold together.
    """

    namespace: bytes
    block_size: int
    groups: tuple[GroupSpec, ...]
    state: tuple[tuple[tuple[int, ...], str], ...] = ()
    rank: int = 0
    size: int = 1
    budget: int = 2048


@frozen(kw_only=True)
class Block:
    """A block's KV.

    Attributes:
        key: Its identity.
        arrays: One per group of the layout; evaluated device arrays for a ``device`` tier, bytes
            in C order for a ``host`` tier.
    """

    key: BlockKey
    arrays: tuple[Array | bytes, ...] = field(repr=False)


class CacheTier(Protocol):
    """Keeps blocks. Every method is called on the engine thread and must not wait for I/O."""

    @property
    def name(self) -> str:
        """The tier's name in usage and metrics, e.g. ``ram``."""

    @property
    def medium(self) -> Literal["device", "host"]:
        """Whether it is given device arrays or bytes."""

    @property
    def wants_fresh(self) -> bool:
        """Whether blocks are offered as they fill; if not, only when a nearer tier drops them."""

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of ``keys``, from the first on, are here; tokens are compared."""

    def fetch(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Load blocks that ``lookup`` counted and pin them until the future is read.

        The future yields the longest intact run from the first key on: shorter than asked when a
        block turned out torn or gone. A tier in memory returns a future that is done.
        """

    def store(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """Take ``blocks`` and return those that gave way to them, for the next tier."""

    def shrink(self, blocks: int) -> Sequence[Block]:
        """Give back up to ``blocks`` unpinned blocks, least recently used and tails first."""

    def held(self) -> int:
        """Return how many blocks are here."""

    def clear(self) -> int:
        """Forget every block that is not pinned; return how many."""

    def stats(self) -> Mapping[str, float]:
        """Return running totals and gauges by name, for metrics and operators."""

    def flush(self, timeout: float) -> bool:
        """Write out what is pending within ``timeout`` seconds; return whether all was.

        The one call that may wait: at a drain, after the last iteration.
        """

    def close(self) -> None:
        """Stop threads, release locks and files."""


class StateStore(Protocol):
    """Keeps checkpoints of recurrent state. Engine thread; must not wait for I/O."""

    @property
    def name(self) -> str:
        """The store's name in metrics."""

    @property
    def medium(self) -> Literal["device", "host"]:
        """Whether it is given device arrays or bytes."""

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return the largest n for which the state after ``keys[n - 1]`` is here; 0 if none is."""

    def fetch(self, key: BlockKey) -> "Future[tuple[Array | bytes, ...] | None]":
        """Load the state after ``key``; ``None`` if it turned out torn or gone."""

    def store(
        self, key: BlockKey, state: tuple[Array | bytes, ...]
    ) -> Sequence[tuple[BlockKey, tuple[Array | bytes, ...]]]:
        """Take a checkpoint and return those that gave way to it, for the next store."""

    def shrink(self, states: int) -> Sequence[tuple[BlockKey, tuple[Array | bytes, ...]]]:
        """Give back up to ``states`` checkpoints, least recently used first."""

    def clear(self) -> int:
        """Forget every checkpoint; return how many."""

    def stats(self) -> Mapping[str, float]:
        """Return running totals and gauges by name."""

    def close(self) -> None:
        """Stop threads, release files."""


@hookspec
def make_state_store(layout: CacheLayout) -> StateStore | None:
    """Make a store of state checkpoints, for a model with recurrent layers.

    **Gather.** Every plugin is asked; stores are consulted in order, nearest first. Return
    ``None`` to take no part.

    Called once at start, on the engine thread, after the model is loaded, if there is any state.
    """


@hookspec
def make_cache_tier(layout: CacheLayout) -> CacheTier | None:
    """Make a cache tier.

    **Gather.** Every plugin is asked; tiers are consulted in the order of ``--plugins`` and the
    default set, nearest first. Return ``None`` when the layout cannot be kept.

    Called once at start, on the engine thread, after the model is loaded.
    """
