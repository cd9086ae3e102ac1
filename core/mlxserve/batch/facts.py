"""What is known of a model's caches before anything is decided."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import mlx.core as mx
from attrs import frozen
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.model.causal import CausalModel
from mlxserve.pool.layout import AttentionLeaf, Layout, UnmappedError, read_layout
from mlxserve_hookspecs import KvSide

Sides: TypeAlias = tuple[KvSide, KvSide]


@frozen
class Facts:
    """A model and what its layers keep.

    Attributes:
        model: The model.
        layout: Its layers.
        sides: Keys and values of each leaf; ``None`` where it holds none.
        state: The recurrent leaves' arrays for one sequence, as (shape, dtype).
        vocab: Width of the logits.
        budget: Tokens beyond which layers choose what they attend to; ``None``: they see all.
    """

    model: CausalModel
    layout: Layout
    sides: Sequence[Sides | None]
    state: tuple[tuple[tuple[int, ...], mx.Dtype], ...]
    vocab: int
    budget: int | None = None


def facts_of(model: CausalModel) -> Facts:
    """Read shapes off mlx-lm's caches after a call that is never run.

    Raises:
        UnmappedError: A layer keeps something that has no place in a pool.
    """
    caches = make_prompt_cache(model)
    layout = read_layout(caches)
    logits = model(mx.array([[0, 1, 2]]), cache=caches)
    flat = [part for cache in caches for part in _parts(cache)]
    held = list(zip(layout.leaves, flat, strict=True))
    sides = [
        _pair(index, leaf, cache) if isinstance(leaf, AttentionLeaf) else None
        for index, (leaf, cache) in enumerate(held)
    ]
    arrays = [a for leaf, c in held if not isinstance(leaf, AttentionLeaf) for a in c.cache]
    if any(a is None for a in arrays):
        raise UnmappedError("a recurrent layer leaves some of its state unused")
    state = tuple((tuple(a.shape), a.dtype) for a in arrays)
    return Facts(model, layout, sides, state, logits.shape[-1], _budget(model))


def _budget(model: CausalModel) -> int | None:
    """Return the smallest budget of sparse attention, as mlx-lm's models name it."""
    found = []
    for _, part in model.named_modules():
        tokens = getattr(part, "index_topk", None)
        blocks = getattr(part, "index_topk_blocks", None)
        size = getattr(part, "index_block_size", None)
        if isinstance(tokens, int):
            found.append(tokens)
        if isinstance(blocks, int) and isinstance(size, int):
            found.append(blocks * size)
    return min(found, default=None)


def _parts(cache: Any) -> Iterator[Any]:
    if hasattr(cache, "caches"):
        for part in cache.caches:
            yield from _parts(part)
    else:
        yield cache


def _pair(index: int, leaf: AttentionLeaf, cache: Any) -> Sides | None:
    if cache.keys is None:
        return None  # a cache that the model makes and never asks

    def side(name: Literal["keys", "values"], array: mx.array) -> KvSide:
        return KvSide(
            layer=index,
            side=name,
            heads=array.shape[1],
            width=array.shape[3],
            dtype=array.dtype,
            window=leaf.window,
        )

    return side("keys", cache.keys), side("values", cache.values)
