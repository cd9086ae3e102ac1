"""What a model's layers keep between tokens, read off the cache classes that mlx-lm gives it."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from attrs import frozen
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache


@frozen
class AttentionLeaf:
    """Keys and values per token.

    Attributes:
        window: A query sees this many tokens, itself included; ``None`` is all.
        keep: The first tokens that a window never loses sight of.
    """

    window: int | None = None
    keep: int = 0


@frozen
class StateLeaf:
    """Recurrent state: ``size`` arrays per row that no token can be taken out of again."""

    size: int


Leaf: TypeAlias = AttentionLeaf | StateLeaf
Tree: TypeAlias = "Leaf | tuple[Tree, ...]"


@frozen
class Layout:
    """All layers of a model; a layer with several caches is a tuple."""

    layers: tuple[Tree, ...]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every cache of every layer, in order."""
        return tuple(leaf for layer in self.layers for leaf in _flatten(layer))

    @property
    def recurrent(self) -> bool:
        """Whether any layer keeps state that cannot be rolled back."""
        return any(isinstance(leaf, StateLeaf) for leaf in self.leaves)


class UnmappedError(Exception):
    """A cache class that has no row layout."""


def read_layout(caches: Sequence[Any]) -> Layout:
    """Return the layout of what ``mlx_lm.models.cache.make_prompt_cache`` returned.

    Raises:
        UnmappedError: A layer has a cache of another class; the message names it.
    """
    return Layout(tuple(_tree(cache) for cache in caches))


def _tree(cache: Any) -> Tree:
    # Exact classes: a subclass may keep more than its parent.
    match type(cache):
        case t if t is KVCache or t is ChunkedKVCache:  # chunks are the model's own mask's say
            return AttentionLeaf()
        case t if t is RotatingKVCache:
            return AttentionLeaf(window=cache.max_size, keep=cache.keep)
        case t if t is ArraysCache:
            return StateLeaf(len(cache.cache))
        case t if t is CacheList:
            return tuple(_tree(part) for part in cache.caches)
        case t:
            raise UnmappedError(f"mlx-lm's {t.__name__} has no row layout")


def _flatten(tree: Tree) -> Iterator[Leaf]:
    if isinstance(tree, tuple):
        for part in tree:
            yield from _flatten(part)
    else:
        yield tree
