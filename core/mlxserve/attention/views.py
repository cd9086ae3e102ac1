"""One forward pass: what each layer of a model sees as its cache while rows run through it."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from attrs import evolve, frozen
from mlx_lm.models.cache import ArraysCache

from mlxserve.attention.readers import Reader
from mlxserve.attention.seam import Held, Seen
from mlxserve.pool.layout import AttentionLeaf, StateLeaf, Tree
from mlxserve.pool.planes import LeafCodec, LeafData
from mlxserve.pool.pool import Shape


@frozen
class Frame:
    """One group's part of a pass.

    Attributes:
        where: Slots of the new tokens ``[n]`` int32.
        reader: Reads the planes when the new tokens are there.
    """

    where: mx.array
    reader: Reader


class Pass:
    """Rows that run through the model together, ``width`` tokens each.

    Functional: takes what the leaves hold, and has the new in ``data`` when the model has been
    called. So the same code runs eagerly and under ``mx.compile``.
    """

    def __init__(
        self,
        shape: Shape,
        data: Sequence[LeafData],
        frames: Sequence[Frame],
        starts: mx.array | int,
        chosen: mx.array | None = None,
        *,
        handles: bool = True,
    ) -> None:
        """Take the rows in.

        Args:
            shape: What passes have in common.
            data: What each leaf holds.
            frames: One per group.
            starts: ``[rows]`` int32: each row's length before this pass; a number for one row
                of a model that wants a number.
            chosen: Which of the ``rows * width`` tokens are written ``[n]``; ``None`` is all.
            handles: Give the model handles that the seam understands, not arrays.
        """
        self.handles = handles
        self.shape, self.frames, self.offsets, self._chosen = shape, frames, starts, chosen
        self.data: list[LeafData] = list(data)
        self._states: list[tuple[int, Any]] = []

    def views(self, lengths: mx.array | None = None) -> list[Any]:
        """Return what the model is to take as its caches; once.

        The pass does not hold them: they hold it, and a circle would keep the old planes, which are
        then copied where they should be written to, until Python looks for circles.

        Args:
            lengths: Recurrent layers take only so many of each row's new tokens ``[rows]``.
        """
        leaves = iter(range(len(self.shape.layout.leaves)))
        views = [self._view(layer, leaves) for layer in self.shape.layout.layers]
        for _, view in self._states:
            # A copy each: mlx-lm's caches count theirs down in place.
            view.lengths = None if lengths is None else lengths + 0
        return views

    def _view(self, tree: Tree, leaves: Any) -> Any:
        if isinstance(tree, tuple):
            return PartsView([self._view(part, leaves) for part in tree])
        index = next(leaves)
        if isinstance(tree, AttentionLeaf):
            codec = self.shape.codecs[index]
            assert codec is not None
            return AttentionView(self, index, tree, codec)
        return self._state(index, tree)

    def _state(self, index: int, leaf: StateLeaf) -> Any:
        view: Any = ArraysCache(leaf.size)
        view.cache = list(self.data[index])
        self._states.append((index, view))
        return view

    def finish(self) -> list[LeafData]:
        """Return what each leaf holds after the model was called."""
        for index, view in self._states:
            self.data[index] = tuple(view.cache)
        return self.data

    def write(self, index: int, codec: LeafCodec, keys: mx.array, values: mx.array) -> None:
        """Put the new tokens of one layer into its planes."""
        codes = codec.encode(keys, values)
        sides = tuple(tuple(self._flat(code) for code in side) for side in codes)
        where = self.frames[self.shape.groups[index]].where
        planes: Any = self.data[index]
        self.data[index] = self.shape.arrangement.write(planes, where, sides, codec)  # type: ignore[arg-type]

    def _flat(self, code: mx.array) -> mx.array:
        """Return ``[1, heads, n, width]`` of ``[rows, heads, tokens, width]``."""
        rows, heads, tokens, width = code.shape
        if rows > 1:
            code = code.transpose(1, 0, 2, 3).reshape(1, heads, rows * tokens, width)
        return code if self._chosen is None else code[:, :, self._chosen]


class AttentionView:
    """One attention layer's cache as mlx-lm's models use it."""

    def __init__(self, owner: Pass, index: int, leaf: AttentionLeaf, codec: LeafCodec) -> None:
        self._pass, self._index, self._leaf, self._codec = owner, index, leaf, codec

    @property
    def offset(self) -> mx.array | int:
        """Each row's position ``[rows]``, for rotary embeddings."""
        return self._pass.offsets

    @property
    def _reader(self) -> Reader:
        return self._pass.frames[self._pass.shape.groups[self._index]].reader

    def make_mask(
        self,
        N: int,  # noqa: N803 - mlx-lm's name
        return_array: bool = False,
        window_size: int | None = None,
    ) -> mx.array | Seen | None:
        """Return the mask for a model that applies it itself; behind the seam, its description."""
        del N  # the pass knows its width
        leaf = self._narrowed(window_size)
        if not self._pass.handles:
            return self._reader.mask(leaf)
        return Seen(leaf.window) if return_array or leaf.window != self._leaf.window else None

    def _narrowed(self, window: int | None) -> AttentionLeaf:
        mine = self._leaf.window
        if window is None or (mine is not None and mine <= window):
            return self._leaf
        return evolve(self._leaf, window=window)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Write the new tokens; return handles, or arrays ``[rows, heads, reach, width]``."""
        self._pass.write(self._index, self._codec, keys, values)
        if self._pass.handles:
            return Held(self), Held(self)
        planes: Any = self._pass.data[self._index]
        return self._reader.fetch(planes, self._codec)

    def attend(
        self, queries: mx.array, scale: float, window: int | None, sinks: mx.array | None
    ) -> mx.array:
        """Attend to everything that the rows hold now."""
        planes: Any = self._pass.data[self._index]
        leaf = self._narrowed(window)
        return self._reader.attend(planes, self._codec, leaf, queries, scale, sinks)


class PartsView:
    """A layer with several caches: mlx-lm's ``CacheList`` to the model."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def __getitem__(self, index: int) -> Any:
        return self._parts[index]
