"""Hooks that decide how keys and values lie in memory."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from attrs import frozen

from mlxserve_hookspecs.arrays import Array, Dtype
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.words import WordFormat


@frozen
class PlaneSpec:
    """What a codec makes of one side of one token and head: ``width`` elements of ``dtype``."""

    width: int
    dtype: Dtype


Side: TypeAlias = Literal["keys", "values"]


@frozen(kw_only=True)
class KvSide:
    """One layer's keys or values before a codec looks at them.

    Attributes:
        layer: Index of the layer.
        side: ``keys`` or ``values``.
        heads: Key-value heads (of this rank).
        width: Head dimension.
        dtype: What the model computes in.
        window: Sliding window in tokens, if the layer has one.
        sinks: Whether the layer's attention uses sinks.
    """

    layer: int
    side: Side
    heads: int
    width: int
    dtype: Dtype
    window: int | None = None
    sinks: bool = False


class KvCodec(Protocol):
    """How keys and values of one layer become planes, and how attention reads them.

    The core arranges, shares, moves and spills planes alike, whatever they mean. Pure: no method
    keeps an array. All run on the engine thread and build lazy graphs only.

    Each layer has its own, which knows the layer and both sides from ``make_kv_codec``. Where it
    fails, the requests of that pass end with an error (status 500), and nothing of them is kept.
    """

    @property
    def name(self) -> str:
        """Names the format exactly, e.g. ``affine-8-64``: part of every block hash."""

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        """Return what ``side`` is held as."""

    @property
    def words(self) -> WordFormat | None:
        """What the core's kernels may read the planes as; ``None``: they are decoded first."""

    def encode(self, x: Array, side: Side) -> tuple[Array, ...]:
        """Return the planes of ``x`` ``[rows, heads, tokens, width]``, token by token."""

    def decode(self, planes: Sequence[Array], side: Side) -> Array:
        """Return ``[rows, heads, tokens, width]`` in the model's dtype."""

    def attend(
        self,
        queries: Array,
        keys: Sequence[Array],
        values: Sequence[Array],
        *,
        scale: float,
        mask: Array | Literal["causal"] | None,
        sinks: Array | None,
    ) -> Array:
        """Return attention's output ``[rows, heads, tokens, width]``.

        Args:
            queries: ``[rows, query_heads, tokens, width]``.
            keys: Planes of the keys, ``[rows, heads, held, width]`` each.
            values: Planes of the values, likewise.
            scale: Multiplies the scores.
            mask: Booleans broadcastable to ``[rows, heads, tokens, held]``, true is seen; or
                ``causal``: the queries are the last of the held tokens; or ``None``: all is seen.
            sinks: One logit per query head that joins the softmax, or ``None``.
        """


class PagedKvCodec(KvCodec, Protocol):
    """A codec with a kernel of its own, that reads tokens where they lie. Optional.

    All that a ``KvCodec`` promises holds. A pass of up to 8 new tokens a row asks ``attend_pages``
    instead of gathering the tokens for ``attend``: it sees the lengths and tables of all rows at
    once. So on a GPU, and on a CPU with ``--compile on`` or ``--attention kernel``: otherwise a CPU
    reads rows one by one, in place. It is proved at the start, as served, against ``attend``, and
    not asked where it differs; where it fails, tokens are gathered.
    """

    @property
    def pages(self) -> bool:
        """Whether ``attend_pages`` is to be asked on this device."""

    def attend_pages(
        self,
        queries: Array,
        plane: Array,
        table: Array,
        lengths: Array,
        *,
        block_size: int,
        scale: float,
        window: int | None,
        keep: int,
        sinks: Array | None,
    ) -> Array | None:
        """Return attention's output ``[rows, heads, new, width]``; ``None``: gather after all.

        Token ``t`` of row ``r`` lies in slot
        ``table[r, t // block_size] * block_size + t % block_size``. The new tokens are there
        already: query ``i`` sees tokens up to ``lengths[r] + i``. A row of padding has length 0
        and a table of zeros. Everything but shapes varies from pass to pass: it is data.

        Args:
            queries: ``[rows, query_heads, new, width]``.
            plane: ``[slots, heads, words]``. The words of a token and head are what ``encode``
                made of it: the first plane of the key, the first of the value, then the key's
                others, then the value's. Where all have one dtype it is the plane's. Else words
                are uint32, and neighbours of one dtype fill whole words together.
            table: ``[rows, blocks]`` int32.
            lengths: ``[rows]`` int32: tokens that each row held before the new ones.
            block_size: Tokens per block.
            scale: Multiplies the scores.
            window: Tokens that a query sees, itself included; ``None`` is all.
            keep: First tokens that a window never loses sight of.
            sinks: One logit per query head that joins the softmax, or ``None``.
        """


@hookspec(firstresult=True)
def make_kv_codec(keys: KvSide, values: KvSide) -> KvCodec | None:
    """Make the codec of one layer's KV.

    **Ask.** The first plugin to answer is heard; return ``None`` to leave this layer plain. A codec
    with a kernel of its own has the members of ``PagedKvCodec`` too.

    Called once per attention layer at start, on the engine thread, after the model is loaded. A
    plugin that raises here, or answers with what is no codec, ends the start. With a codec that
    fails when it is tried at the start, KV stays plain.
    """
