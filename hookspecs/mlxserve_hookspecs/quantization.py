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


@hookspec(firstresult=True)
def make_kv_codec(keys: KvSide, values: KvSide) -> KvCodec | None:
    """Make the codec of one layer's KV.

    **Ask.** The first plugin to answer is heard; return ``None`` to leave this layer plain.

    Called once per attention layer at start, on the engine thread, after the model is loaded. A
    plugin that raises here, or answers with what is no codec, ends the start. With a codec that
    fails when it is tried at the start, KV stays plain.
    """
