"""How new tokens attend to what the pool holds: in place by runs, or through tables."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.pool.codec import PlainCodec
from mlxserve.pool.layout import AttentionLeaf
from mlxserve.pool.planes import Arrangement, Codes, LeafCodec, Planes
from mlxserve.pool.table import Table

Mask: TypeAlias = mx.array | Literal["causal"] | None


class Reader(Protocol):
    """Reads one group's planes for all rows of a pass; builds lazy graphs."""

    def attend(
        self,
        planes: Planes,
        codec: LeafCodec,
        leaf: AttentionLeaf,
        queries: mx.array,
        scale: float,
        sinks: mx.array | None,
    ) -> mx.array:
        """Return attention's output ``[rows, heads, width, value_width]``."""

    def fetch(self, planes: Planes, codec: LeafCodec) -> tuple[mx.array, mx.array]:
        """Return keys and values ``[rows, heads, reach, width]``, rows padded on the right."""

    def mask(self, leaf: AttentionLeaf) -> mx.array:
        """Return what is seen of ``fetch``'s tokens: booleans ``[rows, 1, width, reach]``."""


@frozen
class Span:
    """One row in a pass.

    Attributes:
        table: Its blocks in the reader's group.
        start: Tokens that it held before.
        count: New tokens.
    """

    table: Table
    start: int
    count: int

    @property
    def end(self) -> int:
        """Tokens that it holds then."""
        return self.start + self.count


@define(eq=False)
class RunReader:
    """Row by row, each as far as it reaches, in place where its blocks follow each other.

    For a CPU, where a gather costs ten times the attention.
    """

    spans: Sequence[Span]
    width: int
    arrangement: Arrangement
    _cuts: dict[tuple[int, int | None], tuple[list[tuple[int, int]], Mask]] = field(factory=dict)

    def attend(
        self,
        planes: Planes,
        codec: LeafCodec,
        leaf: AttentionLeaf,
        queries: mx.array,
        scale: float,
        sinks: mx.array | None,
    ) -> mx.array:
        """Attend through the codec; a step over plain planes in as few operations as there are."""
        if self.width == 1 and sinks is None and isinstance(codec.codec, PlainCodec):
            return self._step(planes, leaf, queries, scale)
        outputs = []
        for at, span in enumerate(self.spans):
            mine = queries if len(self.spans) == 1 else queries[at : at + 1]
            mine = mine if span.count == self.width else mine[:, :, : span.count]
            cuts, mask = self._cut(at, leaf)
            keys, values = self.arrangement.read(self._runs(planes, cuts), codec)
            out = codec.codec.attend(mine, keys, values, scale=scale, mask=mask, sinks=sinks)
            outputs.append(_wide(out, self.width))
        outputs += [mx.zeros_like(outputs[0])] * (queries.shape[0] - len(outputs))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)

    def _step(
        self, planes: Planes, leaf: AttentionLeaf, queries: mx.array, scale: float
    ) -> mx.array:
        """Attend with one query a row: mlx's own fallback on a CPU is twice as many operations."""
        rows, heads, _, width = queries.shape
        keys, values = planes[0].swapaxes(-1, -2), planes[1]
        scaled = (queries * scale).reshape(rows, keys.shape[0], -1, width)
        outputs = []
        for at, mine in enumerate(scaled if rows > 1 else (scaled[0],)):
            cuts, _ = self._cut(at, leaf)
            seen_keys, seen_values = _joined(keys, 2, cuts), _joined(values, 1, cuts)
            scores = mx.softmax(mine @ seen_keys, axis=-1, precise=True)
            outputs.append(scores @ seen_values)
        out = outputs[0][None] if len(outputs) == 1 else mx.stack(outputs)
        return out.reshape(rows, heads, 1, -1)

    def _runs(self, planes: Planes, cuts: Sequence[tuple[int, int]]) -> Planes:
        return tuple(_joined(plane, self.arrangement.axis, cuts) for plane in planes)

    def _cut(self, at: int, leaf: AttentionLeaf) -> tuple[list[tuple[int, int]], Mask]:
        """Return the slots that row ``at`` looks at, and what its tokens see of them; once."""
        key = (at, leaf.window)
        if key not in self._cuts:
            span = self.spans[at]
            first = 0 if leaf.window is None else max(span.start - leaf.window + 1, 0)
            keep = min(leaf.keep, first)
            cuts = span.table.spans(first, span.end)
            if keep:
                cuts = span.table.spans(0, keep) + cuts
            self._cuts[key] = (cuts, _row_mask(span, leaf, first, keep))
        return self._cuts[key]

    def fetch(self, planes: Planes, codec: LeafCodec) -> tuple[mx.array, mx.array]:
        """Copy the rows side by side."""
        reach = max(span.end for span in self.spans)
        sides: tuple[list[mx.array], list[mx.array]] = ([], [])
        for span in self.spans:
            held = self._runs(planes, span.table.spans(0, span.end))
            for side, array in zip(
                sides, codec.decode(*self.arrangement.read(held, codec)), strict=True
            ):
                side.append(_long(array, reach))
        keys, values = (s[0] if len(s) == 1 else mx.concatenate(s) for s in sides)
        return keys, values

    def mask(self, leaf: AttentionLeaf) -> mx.array:
        """Compare positions."""
        starts = mx.array([span.start for span in self.spans], mx.int32)
        return seen(starts, self.width, max(span.end for span in self.spans), leaf)


@define(eq=False)
class TableReader:
    """All rows at once, gathered through their tables, then mlx's fused attention.

    Attributes:
        table: ``[rows, blocks]`` int32.
        starts: ``[rows]`` int32.
        width: New tokens a row.
        size: Tokens per block.
        arrangement: Must have the slots in front.
        reach: Tokens that are gathered; at most what the table covers.
        causal: The one row's new tokens are the last of ``reach``: no mask is needed.
    """

    table: mx.array
    starts: mx.array
    width: int
    size: int
    arrangement: Arrangement
    reach: int
    causal: bool = False
    _masks: dict[tuple[int | None, int], mx.array] = field(factory=dict)

    def attend(
        self,
        planes: Planes,
        codec: LeafCodec,
        leaf: AttentionLeaf,
        queries: mx.array,
        scale: float,
        sinks: mx.array | None,
    ) -> mx.array:
        """Attend through the codec."""
        keys, values = self._gather(planes, codec)
        cut = leaf.window is not None and leaf.window < self.reach
        mask: Mask = "causal" if self.causal and not cut else self.mask(leaf)
        attended: mx.array = codec.codec.attend(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )
        return attended

    def fetch(self, planes: Planes, codec: LeafCodec) -> tuple[mx.array, mx.array]:
        """Gather and decode."""
        return codec.decode(*self._gather(planes, codec))

    def mask(self, leaf: AttentionLeaf) -> mx.array:
        """Compare positions."""
        key = (leaf.window, leaf.keep)
        if key not in self._masks:
            self._masks[key] = seen(self.starts, self.width, self.reach, leaf)
        return self._masks[key]

    def _gather(self, planes: Planes, codec: LeafCodec) -> tuple[Codes, Codes]:
        rows, blocks = self.table.shape
        found = []
        for plane in planes:
            held = plane.reshape(-1, self.size, *plane.shape[1:])
            mine = mx.take(held, self.table, axis=0)
            found.append(mine.reshape(rows, blocks * self.size, *plane.shape[1:])[:, : self.reach])
        keys, values = self.arrangement.read(tuple(found), codec)
        return _heads_first(keys), _heads_first(values)


@define(eq=False)
class KernelReader:
    """All rows at once, each as far as it reaches, by a kernel that follows the tables.

    The codec's own is asked first, then the core's.

    Attributes:
        table: ``[rows, blocks]`` int32.
        starts: ``[rows]`` int32.
        gather: Reads what no kernel reads.
    """

    table: mx.array
    starts: mx.array
    gather: TableReader

    def attend(
        self,
        planes: Planes,
        codec: LeafCodec,
        leaf: AttentionLeaf,
        queries: mx.array,
        scale: float,
        sinks: mx.array | None,
    ) -> mx.array:
        """Attend by the layer's kernel."""
        keep = leaf.keep if leaf.window is not None else 0
        out = None
        if codec.pages:
            paged: Any = codec.codec
            out = paged.attend_pages(
                queries,
                planes[0],
                self.table,
                self.starts,
                block_size=self.gather.size,
                scale=scale,
                window=leaf.window,
                keep=keep,
                sinks=sinks,
            )
        elif codec.kernel is not None:
            out = codec.kernel.attend(
                queries.astype(codec.keys.dtype),
                planes[0],
                self.table,
                self.starts,
                scale=scale,
                window=leaf.window,
                keep=keep,
                sinks=sinks,
            )
        if out is None:
            return self.gather.attend(planes, codec, leaf, queries, scale, sinks)
        return out.astype(queries.dtype)  # type: ignore[no-any-return]

    def fetch(self, planes: Planes, codec: LeafCodec) -> tuple[mx.array, mx.array]:
        """Gather and decode."""
        return self.gather.fetch(planes, codec)

    def mask(self, leaf: AttentionLeaf) -> mx.array:
        """Compare positions."""
        return self.gather.mask(leaf)


def _heads_first(codes: Codes) -> Codes:
    return tuple(code.transpose(0, 2, 1, 3) for code in codes)


def seen(starts: mx.array, width: int, reach: int, leaf: AttentionLeaf) -> mx.array:
    """Return booleans ``[rows, 1, width, reach]``: the causal mask of left-aligned rows."""
    positions = starts[:, None, None, None] + mx.arange(width)[None, None, :, None]
    return _within(mx.arange(reach), positions, leaf)


def _within(keys: mx.array, positions: mx.array, leaf: AttentionLeaf) -> mx.array:
    mask = keys <= positions
    if leaf.window is not None:
        inside = keys > positions - leaf.window
        mask = mask & (inside | (keys < leaf.keep) if leaf.keep else inside)
    return mask


def _row_mask(span: Span, leaf: AttentionLeaf, first: int, keep: int) -> Mask:
    if span.count == 1:
        return None
    if leaf.window is None or (span.end - leaf.window <= first and not keep):
        # No window ends within these tokens: each sees all that is there before it.
        return "causal"
    keys = mx.arange(first, span.end)
    if keep:
        keys = mx.concatenate([mx.arange(keep), keys])
    positions = mx.arange(span.start, span.end)[:, None]
    return _within(keys, positions, leaf)[None, None]


def _joined(plane: mx.array, axis: int, cuts: Sequence[tuple[int, int]]) -> mx.array:
    """Return the slots within ``cuts``, one after the other; a view where there is one."""
    before = (slice(None),) * axis
    parts = [plane[(*before, slice(a, b))] for a, b in cuts]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def _wide(out: mx.array, width: int) -> mx.array:
    short = width - out.shape[2]
    return out if not short else mx.pad(out, [(0, 0), (0, 0), (0, short), (0, 0)])


def _long(array: mx.array, reach: int) -> mx.array:
    short = reach - array.shape[2]
    return array if not short else mx.pad(array, [(0, 0), (0, 0), (0, short), (0, 0)])
