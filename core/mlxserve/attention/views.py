"""One forward pass: what each layer of a model sees as its cache while rows run through it."""

from collections.abc import Sequence
from typing import Any, Literal

import mlx.core as mx
from attrs import evolve, frozen
from mlx_lm.models.cache import ArraysCache

from mlxserve.attention.readers import Reader
from mlxserve.attention.seam import Held, Seen
from mlxserve.pool.layout import AttentionLeaf, StateLeaf, Tree
from mlxserve.pool.planes import LeafCodec, LeafData, Planes
from mlxserve.pool.pool import Shape
from mlxserve_hookspecs import Side


@frozen
class Ways:
    """What a model takes its caches for.

    Attributes:
        handles: It hands on what ``update_and_fetch`` returned, and the seam attends; if not, it
            is given arrays.
        together: Rows of different lengths run in one pass; if not, one row does, and its offset
            is a number.
        mask_rank: Dimensions of the masks of a model on arrays.
    """

    handles: bool = True
    together: bool = True
    mask_rank: int = 4


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
        size: tuple[int, int],
        ways: Ways,
        chosen: mx.array | None = None,
    ) -> None:
        """Take the rows in.

        Args:
            shape: What passes have in common.
            data: What each leaf holds.
            frames: One per group.
            starts: ``[rows]`` int32: each row's length before this pass; a number for one row
                of a model that wants a number.
            size: Rows, and new tokens of each.
            ways: What the model takes its caches for.
            chosen: Which of the ``rows * width`` tokens are written ``[n]``; ``None`` is all.
        """
        (self.rows, self.width), self.ways = size, ways
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
            if codec is None:
                return UnusedView(self)
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
        where = self.frames[self.shape.groups[index]].where
        planes: Any = self.data[index]
        arrangement = self.shape.arrangement
        self.data[index] = arrangement.write(planes, where, keys, values, codec, self._chosen)


class AttentionView:
    """One attention layer's cache as mlx-lm's models use it."""

    def __init__(self, owner: Pass, index: int, leaf: AttentionLeaf, codec: LeafCodec) -> None:
        self._pass, self._index, self._leaf, self._codec = owner, index, leaf, codec

    @property
    def offset(self) -> mx.array | int:
        """Each row's position ``[rows]``, for rotary embeddings; a number where one row runs."""
        return self._pass.offsets

    @property
    def _reader(self) -> Reader:
        return self._pass.frames[self._pass.shape.groups[self._index]].reader

    @property
    def _planes(self) -> Planes:
        planes: Any = self._pass.data[self._index]
        return planes  # type: ignore[no-any-return]

    def make_mask(
        self,
        N: int,  # noqa: N803 - mlx-lm's name
        return_array: bool = False,
        window_size: int | None = None,
    ) -> mx.array | Seen | Literal["causal"] | None:
        """Return the mask for a model that applies it itself; behind the seam, its description."""
        leaf = self._narrowed(window_size)
        if self._pass.ways.handles:
            own = leaf.window == self._leaf.window and not return_array
            return None if own else Seen(leaf.window)
        mask = self._reader.mask(leaf)
        if self._pass.ways.together:
            return mask if self._pass.ways.mask_rank == mask.ndim else mask[:, :, None]
        if return_array or (leaf.window is not None and leaf.window < mask.shape[-1]):
            return mask[0, 0]
        return None if N == 1 else "causal"

    def _narrowed(self, window: int | None) -> AttentionLeaf:
        mine = self._leaf.window
        if window is None or (mine is not None and mine <= window):
            return self._leaf
        return evolve(self._leaf, window=window)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Write the new tokens; return handles, or arrays ``[rows, heads, reach, width]``."""
        self._pass.write(self._index, self._codec, keys, values)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, Any]:
        """Return what ``update_and_fetch`` returned: a layer may use another's."""
        if self._pass.ways.handles:
            return Held(self, "keys"), Held(self, "values")
        return self._reader.fetch(self._planes, self._codec)

    @property
    def keys(self) -> Any:
        """All keys; setting them changes nothing, for the planes are what is read."""
        return self.keys_and_values()[0]

    @keys.setter
    def keys(self, _: Any) -> None:
        return

    @property
    def values(self) -> Any:
        """All values; as ``keys``."""
        return self.keys_and_values()[1]

    @values.setter
    def values(self, _: Any) -> None:
        return

    start_position = 0

    def maybe_trim_front(self) -> None:
        """Keep everything: what is seen is the mask's say."""

    def shape(self, side: Side) -> tuple[Any, ...]:
        """Return rows, heads, tokens of each row ``[rows]`` and width."""
        it = self._codec.keys if side == "keys" else self._codec.values
        ends = self._pass.offsets + self._pass.width
        return (self._pass.rows, it.heads, ends, it.width)

    def dtype(self, side: Side) -> mx.Dtype:
        """Return what the model made them of."""
        it = self._codec.keys if side == "keys" else self._codec.values
        made: mx.Dtype = it.dtype
        return made

    def attend(
        self, queries: mx.array, scale: float, window: int | None, sinks: mx.array | None
    ) -> mx.array:
        """Attend to everything that the rows hold now."""
        leaf = self._narrowed(window)
        return self._reader.attend(self._planes, self._codec, leaf, queries, scale, sinks)


class UnusedView:
    """A cache that the model makes and never asks."""

    def __init__(self, owner: Pass) -> None:
        self._pass = owner

    @property
    def offset(self) -> mx.array | int:
        """Each row's position."""
        return self._pass.offsets


class PartsView:
    """A layer with several caches: mlx-lm's ``CacheList`` to the model."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def __getitem__(self, index: int) -> Any:
        return self._parts[index]
