"""Decide at start how a model's KV is held, and prove it against mlx-lm before serving."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from attrs import frozen
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.kv.attention import bind
from mlxserve.kv.codec import PlainCodec
from mlxserve.kv.layout import AttentionLeaf, Layout, Leaf, UnmappedError, read_layout
from mlxserve.kv.model import CausalModel
from mlxserve.kv.passes import LeafCodec
from mlxserve.kv.probe import PROMPTS, mismatch, reference, stops_midway
from mlxserve.kv.solo import SoloStore
from mlxserve.kv.store import BucketStore, RowStore
from mlxserve_hookspecs import KvCodec, KvSide

CodecMaker = Callable[[KvSide, KvSide], KvCodec | None]


@frozen
class KvPlan:
    """How KV is held.

    Attributes:
        store: Holds it.
        codecs: The codec's name per attention layer, in order.
        notes: What falls back and why, one line each.
        state: The recurrent layers' arrays for one sequence, as (shape, dtype).
    """

    store: RowStore
    codecs: tuple[str, ...]
    notes: tuple[str, ...]
    state: tuple[tuple[tuple[int, ...], mx.Dtype], ...] = ()


def plan_kv(model: CausalModel, make_codec: CodecMaker, *, compiled: bool) -> KvPlan:
    """Return the fastest layout that gives mlx-lm's own logits for a few probe tokens.

    Tried in order: all buckets in one pass through the attention seam; one pass per bucket on
    real arrays; mlx-lm's own caches, one sequence at a time. Takes a few short forward passes.
    """
    expected = [reference(model, prompt) for prompt in PROMPTS]
    notes: list[str] = []
    try:
        layout = read_layout(make_prompt_cache(model))
        sides = _sides(model, layout)
        bind(model)
        for handles in (True, False):
            if error := mismatch(_store(model, layout, sides, _plain(layout), handles), expected):
                notes.append(f"{'batched' if handles else 'per-bucket'} attention is off: {error}")
                continue
            codecs = _codecs(layout, sides, make_codec)
            store = _store(model, layout, sides, codecs, handles)
            store.compiled = compiled and handles
            if layout.recurrent:
                probe = _store(model, layout, sides, _plain(layout), handles)
                store.stops_midway = stops_midway(probe, model)
            names = tuple(c.codec.name for c in codecs if c is not None)
            return KvPlan(store, names, (*notes, *_plain_layers(names)), _state(model, layout))
    except UnmappedError as reason:
        notes.append(str(reason))
    notes.append("KV is held in mlx-lm's own caches, one sequence at a time: slower, no reuse")
    return KvPlan(SoloStore(model, lambda: make_prompt_cache(model)), (), tuple(notes))


def _plain_layers(names: Sequence[str]) -> tuple[str, ...]:
    plain = [i for i, name in enumerate(names) if name == "plain"]
    if not plain or len(plain) == len(names):
        return ()
    return (f"KV of attention layers {plain} stays plain: their codec declined",)


def _store(
    model: CausalModel,
    layout: Layout,
    sides: Sequence[tuple[KvSide, KvSide] | None],
    codecs: Sequence[LeafCodec | None],
    handles: bool,
) -> BucketStore:
    shapes = []
    for pair, codec in zip(sides, codecs, strict=True):
        planes = []
        for side in pair or ():
            assert codec is not None
            planes += [(side.heads, p.width, p.dtype) for p in codec.codec.planes(side)]
        shapes.append(planes)
    narrow = mx.default_device().type == mx.DeviceType.cpu
    return BucketStore(model, layout, codecs, shapes, handles=handles, narrow=narrow)


def _plain(layout: Layout) -> list[LeafCodec | None]:
    plain = LeafCodec(PlainCodec(), 1)
    return [plain if isinstance(leaf, AttentionLeaf) else None for leaf in layout.leaves]


def _codecs(
    layout: Layout, sides: Sequence[tuple[KvSide, KvSide] | None], make_codec: CodecMaker
) -> list[LeafCodec | None]:
    found: list[LeafCodec | None] = []
    for pair in sides:
        if pair is None:
            found.append(None)
            continue
        codec = make_codec(*pair) or PlainCodec()
        found.append(LeafCodec(codec, len(codec.planes(pair[0]))))
    assert len(found) == len(layout.leaves)
    return found


def _sides(model: CausalModel, layout: Layout) -> list[tuple[KvSide, KvSide] | None]:
    """Read each attention layer's shapes off mlx-lm's caches after a call that is never run."""
    caches = make_prompt_cache(model)
    model(mx.array([PROMPTS[1]]), cache=caches)
    flat = [part for cache in caches for part in _parts(cache)]
    return [
        _pair(index, leaf, cache) if isinstance(leaf, AttentionLeaf) else None
        for index, (leaf, cache) in enumerate(zip(layout.leaves, flat, strict=True))
    ]


def _state(model: CausalModel, layout: Layout) -> tuple[tuple[tuple[int, ...], mx.Dtype], ...]:
    """Read the recurrent arrays' shapes off mlx-lm's caches after a call that is never run."""
    if not layout.recurrent:
        return ()
    caches = make_prompt_cache(model)
    model(mx.array([PROMPTS[1]]), cache=caches)
    flat = [part for cache in caches for part in _parts(cache)]
    held = zip(layout.leaves, flat, strict=True)
    arrays = [a for leaf, c in held if not isinstance(leaf, AttentionLeaf) for a in c.cache]
    return tuple((tuple(a.shape), a.dtype) for a in arrays)


def _parts(cache: Any) -> list[Any]:
    return (
        [p for part in cache.caches for p in _parts(part)] if hasattr(cache, "caches") else [cache]
    )


def _pair(index: int, leaf: Leaf, cache: Any) -> tuple[KvSide, KvSide]:
    assert isinstance(leaf, AttentionLeaf)
    if cache.keys is None:
        raise UnmappedError(f"cache {index} of the model is not used by a plain forward pass")

    def side(name: str, array: mx.array) -> KvSide:
        return KvSide(
            layer=index,
            side=name,
            heads=array.shape[1],
            width=array.shape[3],
            dtype=array.dtype,
            window=leaf.window,
        )

    return side("keys", cache.keys), side("values", cache.values)
