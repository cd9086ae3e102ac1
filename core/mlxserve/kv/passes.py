"""One forward pass: what each layer of a model sees as its cache while rows run through it."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import mlx.core as mx
from attrs import frozen
from mlx_lm.models.cache import ArraysCache

from mlxserve.kv.attention import Held
from mlxserve.kv.layout import AttentionLeaf, Layout, StateLeaf, Tree
from mlxserve_hookspecs import KvCodec

LeafPlanes: TypeAlias = tuple[mx.array | None, ...]
"""Keys' planes, then values' planes, each ``[rows, kv_heads, capacity, width]``; or the arrays
of a recurrent layer, ``[rows, ...]``, ``None`` before its first token."""

Planes: TypeAlias = list[LeafPlanes]
"""One entry per leaf of the layout."""

Mask: TypeAlias = mx.array | Literal["causal"]


@frozen
class LeafCodec:
    """A leaf's codec and how many planes its keys take."""

    codec: KvCodec
    key_planes: int


@frozen
class Span:
    """Rows of one bucket that take part in a pass.

    Attributes:
        rows: How many.
        capacity: Tokens that each has room for.
        reach: Only the first ``reach`` tokens are attended to; they must cover every row's
            length and the new tokens. ``None`` is the whole capacity, without a slice: on a GPU
            a slice per layer costs more than the attention it saves.
    """

    rows: int
    capacity: int
    reach: int | None = None

    @property
    def seen(self) -> int:
        """Tokens attended to."""
        return self.capacity if self.reach is None else self.reach


class Pass:
    """Spans of rows that run through the model together, ``width`` tokens each.

    Functional: takes planes, holds the new ones in ``planes`` when the model has been called. So
    the same code runs eagerly and under ``mx.compile``.
    """

    def __init__(
        self,
        layout: Layout,
        codecs: Sequence[LeafCodec | None],
        spans: Sequence[Span],
        starts: Sequence[mx.array],
        planes: Sequence[Planes],
        width: int,
        *,
        handles: bool,
    ) -> None:
        """Take the rows in.

        Args:
            layout: The model's layers.
            codecs: One per leaf; ``None`` for recurrent ones.
            spans: The rows, in batch order.
            starts: Per span ``[rows]`` int32: each row's length before this pass.
            planes: Per span, what the rows hold.
            width: Tokens per row in this pass.
            handles: Give the model handles that the seam understands, not arrays.
        """
        self.spans, self.starts, self.width, self.handles = spans, starts, width, handles
        self.codecs = codecs
        self.planes: list[Planes] = [list(held) for held in planes]
        self.offsets = starts[0] if len(starts) == 1 else mx.concatenate(list(starts))
        self._positions: dict[int, mx.array] = {}
        self._masks: dict[tuple[int, int | None, int], Mask] = {}
        self._states: list[tuple[int, Any]] = []
        self._layout = layout

    def views(self) -> list[Any]:
        """Return what the model is to take as its caches; once.

        The pass does not hold them: they hold it, and a circle would keep the old planes, which are
        then copied where they should be written to, until Python looks for circles.
        """
        leaves = iter(range(len(self._layout.leaves)))
        return [self._view(layer, leaves) for layer in self._layout.layers]

    def _view(self, tree: Tree, leaves: Any) -> Any:
        if isinstance(tree, tuple):
            return PartsView([self._view(part, leaves) for part in tree])
        index = next(leaves)
        if isinstance(tree, AttentionLeaf):
            codec = self.codecs[index]
            assert codec is not None
            return AttentionView(self, index, tree, codec)
        return self._state(index, tree)

    def _state(self, index: int, leaf: StateLeaf) -> Any:
        view: Any = ArraysCache(leaf.size)
        view.cache = [_join([held[index][i] for held in self.planes]) for i in range(leaf.size)]
        self._states.append((index, view))
        return view

    def stop_at(self, lengths: mx.array | None) -> None:
        """Let recurrent layers take only the first ``lengths`` ``[rows]`` of the new tokens."""
        for _, view in self._states:
            # A copy each: mlx-lm's caches count theirs down in place.
            view.lengths = None if lengths is None else lengths + 0

    def finish(self) -> list[Planes]:
        """Return each span's planes after the model was called."""
        for index, view in self._states:
            at = 0
            for span, held in zip(self.spans, self.planes, strict=True):
                part = slice(at, at + span.rows)
                held[index] = tuple(a if len(self.spans) == 1 else a[part] for a in view.cache)
                at += span.rows
        return self.planes

    def write(self, index: int, plane: int, codes: Sequence[mx.array], at: int, span: int) -> None:
        """Put ``codes[at: at + rows]`` behind what the span's rows hold, from ``plane`` on."""
        rows = self.spans[span].rows
        held = list(self.planes[span][index])
        for offset, code in enumerate(codes):
            mine = code if len(self.spans) == 1 else code[at : at + rows]
            old = held[plane + offset]
            assert old is not None
            if rows == 1:
                new = mx.slice_update(old, mine, self.starts[span], (2,))
            else:
                where = mx.broadcast_to(self._position(span), mine.shape)
                new = mx.put_along_axis(old, where, mine, axis=2)
            held[plane + offset] = new
        self.planes[span][index] = tuple(held)

    def _position(self, span: int) -> mx.array:
        if span not in self._positions:
            start = self.starts[span][:, None]
            where = start if self.width == 1 else start + mx.arange(self.width)[None]
            self._positions[span] = where[:, None, :, None]
        return self._positions[span]

    def mask(self, span: int, leaf: AttentionLeaf, *, array: bool = False) -> Mask:
        """Return what the span's new tokens see of the span's held ones.

        Args:
            span: Index of the span.
            leaf: The layer's window.
            array: Never answer ``causal``.

        Returns:
            Booleans ``[rows, 1, width, seen]``, or ``causal`` where that says it all.
        """
        it = self.spans[span]
        window = leaf.window if leaf.window is not None and leaf.window < it.seen else None
        if it.rows == 1 and it.reach is not None and window is None and not array:
            return "causal"
        key = (span, window, leaf.keep if window is not None else 0)
        if key not in self._masks:
            self._masks[key] = _seen(self._position(span), it.seen, window, leaf.keep)
        return self._masks[key]


class AttentionView:
    """One attention layer's cache as mlx-lm's models use it."""

    def __init__(self, owner: Pass, index: int, leaf: AttentionLeaf, codec: LeafCodec) -> None:
        self._pass, self._index, self._leaf, self._codec = owner, index, leaf, codec

    @property
    def offset(self) -> mx.array:
        """Each row's position ``[rows]``, for rotary embeddings."""
        return self._pass.offsets

    def make_mask(
        self,
        N: int,  # noqa: N803 - mlx-lm's name
        return_array: bool = False,
        window_size: int | None = None,
    ) -> mx.array | None:
        """Return the mask for a model that applies it itself; behind the seam, none."""
        del N, return_array  # the pass knows its width, and an array serves everybody
        if self._pass.handles:
            return None
        leaf = self._leaf if window_size is None else AttentionLeaf(window_size, self._leaf.keep)
        mask = self._pass.mask(0, leaf, array=True)
        assert not isinstance(mask, str)
        return mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Write the new tokens; return handles, or the arrays of the only span."""
        codec, run = self._codec, self._pass
        codes = (codec.codec.encode(keys), codec.codec.encode(values))
        sides: list[list[tuple[mx.array, ...]]] = [[], []]
        at = 0
        for number, span in enumerate(run.spans):
            run.write(self._index, 0, codes[0], at, number)
            run.write(self._index, codec.key_planes, codes[1], at, number)
            held = _reach(run.planes[number][self._index], span)
            sides[0].append(held[: codec.key_planes])
            sides[1].append(held[codec.key_planes :])
            at += span.rows
        if run.handles:
            return Held(self, tuple(sides[0])), Held(self, tuple(sides[1]))
        return codec.codec.decode(sides[0][0]), codec.codec.decode(sides[1][0])

    def attend(
        self, queries: mx.array, keys: Held, values: Held, scale: float, sinks: mx.array | None
    ) -> mx.array:
        """Attend span by span, each through the codec."""
        outputs = []
        at = 0
        for number, span in enumerate(self._pass.spans):
            whole = len(self._pass.spans) == 1
            mask = self._pass.mask(number, self._leaf)
            outputs.append(
                self._codec.codec.attend(
                    queries if whole else queries[at : at + span.rows],
                    keys.planes[number],
                    values.planes[number],
                    scale=scale,
                    mask=mask,
                    sinks=sinks,
                )
            )
            at += span.rows
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


class PartsView:
    """A layer with several caches: mlx-lm's ``CacheList`` to the model."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def __getitem__(self, index: int) -> Any:
        return self._parts[index]


def _reach(planes: LeafPlanes, span: Span) -> tuple[mx.array, ...]:
    if span.reach is None or span.reach >= span.capacity:
        return planes  # type: ignore[return-value]
    return tuple(p[:, :, : span.reach] for p in planes)  # type: ignore[index]


def _join(arrays: Sequence[mx.array | None]) -> mx.array | None:
    if len(arrays) == 1 or arrays[0] is None:
        return arrays[0]
    return mx.concatenate(list(arrays))  # type: ignore[arg-type]


def _seen(positions: mx.array, seen: int, window: int | None, keep: int) -> mx.array:
    keys = mx.arange(seen)
    mask = keys <= positions
    if window is not None:
        inside = keys > positions - window
        mask = mask & (inside | (keys < keep) if keep else inside)
    return mask
