"""Hooks that keep KV for later: tiers of blocks, and checkpoints of recurrent state."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from math import prod
from typing import Final, Literal, Protocol

from attrs import field, frozen

from mlxserve_hookspecs.arrays import Array
from mlxserve_hookspecs.markers import hookspec

ITEM_BYTES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of an element, by the dtype's name as safetensors knows it."""


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
class BlockArray:
    """One array of every block.

    Attributes:
        shape: Its dimensions.
        dtype: The dtype's name as safetensors knows it, e.g. ``BF16``, ``U32``.
        optional: May be missing (no bytes): layers with a window let go of what lies behind it.
    """

    shape: tuple[int, ...]
    dtype: str
    optional: bool = False

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@frozen(kw_only=True)
class CacheLayout:
    """What all blocks of a run look like.

    Attributes:
        namespace: The root of every chain (without a request's salt).
        block_size: Tokens per block.
        arrays: What a block is made of.
        state: The recurrent layers' arrays for one sequence, as (shape, dtype's name): a model
            that has any resumes only where a checkpoint of them was kept.
        rank: This process among ``size`` that share the model.
        size: How many ranks.
        budget: Blocks that live sequences and unused blocks in memory may take together.
        model: Names the model for people, e.g. in a folder's name.
    """

    namespace: bytes
    block_size: int
    arrays: tuple[BlockArray, ...]
    state: tuple[tuple[tuple[int, ...], str], ...] = ()
    rank: int = 0
    size: int = 1
    budget: int = 2048
    model: str = ""


@frozen(kw_only=True)
class Block:
    """A block's KV.

    Attributes:
        key: Its identity.
        arrays: One per array of the layout, as bytes in C order; no bytes where one is missing.
    """

    key: BlockKey
    arrays: tuple[bytes, ...] = field(repr=False)


class EvictionPolicy(Protocol):
    """Says which unused blocks leave memory first. Engine thread, never waits.

    Where it fails, the blocks that are found first leave first.

    A block is unused when the last sequence that needs it has ended; then it can be found again,
    until it gives way to one that is needed. One policy is made for each group of layers.
    """

    @property
    def name(self) -> str:
        """What hits in memory are called in usage and metrics, e.g. ``ram``."""

    def unused(self, keys: Sequence[BlockKey]) -> None:
        """Learn that these blocks are unused from now on; leaves come before their parents."""

    def used(self, keys: Sequence[BlockKey]) -> None:
        """Learn that these blocks are used again, or gone."""

    def victims(self, count: int) -> Sequence[BlockKey]:
        """Return ``count`` unused blocks, those that are to leave first in front.

        A block must not leave before its leaves: what is held can then always be reached.
        """


class CacheTier(Protocol):
    """Keeps blocks below memory. Called on the engine thread; must not wait for I/O.

    Where it fails nothing is found and nothing is kept: a miss, never an error of a request. That
    is so for a call that raises or answers with something else, and for a future that fails,
    brings something else, or is not done within 5 s.
    """

    @property
    def name(self) -> str:
        """The tier's name in usage and metrics, e.g. ``ssd``."""

    @property
    def wants_fresh(self) -> bool:
        """Whether blocks are offered as they fill; if not, only when they leave memory."""

    def room(self) -> int:
        """Return how many blocks ``store`` would take now: no bytes are made for more."""

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of ``keys``, from the first on, are here; tokens are compared."""

    def fetch(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Load blocks that ``lookup`` counted and pin them until the future is read.

        The future yields the longest intact run from the first key on: shorter than asked when a
        block turned out torn or gone. It may be cancelled by a sequence that leaves.
        """

    def store(self, blocks: Sequence[Block]) -> None:
        """Take ``blocks``, parents before their children."""

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


class RemoteCacheTier(CacheTier, Protocol):
    """A tier that must ask elsewhere what it has: another process, another machine.

    Everything that a ``CacheTier`` promises holds: ``lookup`` answers at once, from what is known
    here. What this adds is the time to get to know it.
    """

    def query(self, keys: Sequence[BlockKey]) -> "Future[object] | None":
        """Begin to find out which of ``keys`` are here; return a future that is done when known.

        Asked for each request that waits, once, before ``lookup`` is first asked for it. The
        future may bring anything: when it is done, ``lookup`` is asked and its answer counts.
        ``None`` says that ``lookup`` can answer now. The work is done on the tier's own thread.

        Only this request waits, for half a second at most: then it goes on with what ``lookup``
        knows by then. A request that leaves cancels the future. Blocks that nobody queried may be
        looked up too, before they are stored: a wrong 0 costs a second ``store`` of the same.
        """


class StateStore(Protocol):
    """Keeps checkpoints of recurrent state. Engine thread; must not wait for I/O.

    Where it fails nothing is found and nothing is kept, as with a ``CacheTier``.
    """

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
    A plugin that raises here, or answers with what is no store, ends the start.
    """


@hookspec(firstresult=True)
def make_eviction_policy(layout: CacheLayout) -> EvictionPolicy | None:
    """Make the policy of unused blocks in memory.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass. Without any, no block
    stays in memory when the last sequence that needs it ends.

    Called at start, once for each group of layers, on the engine thread, after the model is
    loaded. A plugin that raises here, or answers with what is no policy, ends the start.
    """


@hookspec
def make_cache_tier(layout: CacheLayout) -> CacheTier | None:
    """Make a cache tier.

    **Gather.** Every plugin is asked; tiers are consulted after memory, in the order of
    ``--plugins`` and the default set, nearest first. Return ``None`` when the layout cannot be
    kept. A tier that has to ask elsewhere has the ``query`` of ``RemoteCacheTier`` too.

    Called once at start, on the engine thread, after the model is loaded. A plugin that raises
    here, or answers with what is no tier, ends the start; what fails later is a miss.
    """
