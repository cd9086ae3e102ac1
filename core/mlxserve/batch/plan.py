"""Decide at start how a model's KV is held, and prove it against mlx-lm before serving."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import mlx.core as mx
from attrs import frozen
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.attention.seam import bind
from mlxserve.batch.proof import CODED, Probe, mismatch, probes_of
from mlxserve.batch.runner import Runner
from mlxserve.batch.solo import SoloStore
from mlxserve.batch.store import RowStore
from mlxserve.model.causal import CausalModel
from mlxserve.pool.blocks import Blocks
from mlxserve.pool.codec import PlainCodec
from mlxserve.pool.layout import AttentionLeaf, Layout, UnmappedError, read_layout
from mlxserve.pool.planes import Apart, Arrangement, Joined, LeafCodec
from mlxserve.pool.pool import Group, Pool, Shape
from mlxserve_hookspecs import KvCodec, KvSide, ModelError

CodecMaker: TypeAlias = Callable[[KvSide, KvSide], KvCodec | None]
Sides: TypeAlias = tuple[KvSide, KvSide]
Way: TypeAlias = Literal["auto", "kernel", "gather"]
PROBE_BLOCKS = 512
FAR_WINDOW = 8192
"""The longest window that a proof on a GPU passes; on a CPU a longer one costs seconds."""

NEAR_WINDOW = 128


@frozen
class PoolLimits:
    """How large a pool may become.

    Attributes:
        blocks: Blocks of the layers that see all tokens.
        block_size: Tokens per block.
        live: Rows at once.
        prefilling: Rows in prefill at once.
        chunk: Most prompt tokens that a row takes in one pass.
    """

    blocks: int
    block_size: int
    live: int
    prefilling: int
    chunk: int

    def of_window(self, window: int | None) -> int:
        """Return how many blocks layers need that see ``window`` tokens, with some to be found."""
        if window is None:
            return self.blocks
        behind = -(-window // self.block_size) + 2
        chunks = self.prefilling * -(-self.chunk // self.block_size)
        return min(self.blocks, self.live * behind + chunks + self.blocks // 4)


@frozen
class KvPlan:
    """How KV is held.

    Attributes:
        store: Holds it.
        codecs: The codec's name per attention layer, in order.
        notes: What falls back and why, one line each.
        state: The recurrent layers' arrays for one sequence, as (shape, dtype).
        how: How the layers attend.
    """

    store: RowStore
    codecs: tuple[str, ...]
    notes: tuple[str, ...]
    state: tuple[tuple[tuple[int, ...], mx.Dtype], ...] = ()
    how: str = ""


@frozen
class _Facts:
    """What is known of a model before anything is decided."""

    model: CausalModel
    layout: Layout
    sides: Sequence[Sides | None]
    state: tuple[tuple[tuple[int, ...], mx.Dtype], ...]


def plan_kv(
    model: CausalModel,
    make_codec: CodecMaker,
    limits: PoolLimits,
    *,
    compiled: bool,
) -> KvPlan:
    """Return the fastest layout that gives mlx-lm's own logits for a few probe rows.

    Tried in order: all rows in one pass through the attention seam; all rows in one pass on real
    arrays; a pass for each row; mlx-lm's own caches, one sequence at a time.

    Raises:
        ModelError: mlx-lm itself cannot run the model.
    """
    notes: list[str] = []
    try:
        facts = _facts(model)
    except UnmappedError as reason:
        notes.append(str(reason))
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"mlx-lm cannot run this model: {words}") from error
    else:
        probes = probes_of(model, _window_to_pass(facts.layout))
        bind(model)
        for handles, together in ((True, True), (False, True), (False, False)):
            found = _try(facts, make_codec, limits, probes, notes, handles, together, compiled)
            if found is not None:
                return found
    notes.append("KV is held in mlx-lm's own caches, one sequence at a time: slower, no reuse")
    return KvPlan(SoloStore(model, lambda: make_prompt_cache(model)), (), tuple(notes))


def _try(
    facts: _Facts,
    make_codec: CodecMaker,
    limits: PoolLimits,
    probes: Sequence[Probe],
    notes: list[str],
    handles: bool,
    together: bool,
    compiled: bool,
) -> KvPlan | None:
    arrangement = _arrangement(compiled=compiled)
    small = PoolLimits(PROBE_BLOCKS, limits.block_size, 4, 1, limits.chunk)

    def runner(codecs: Sequence[LeafCodec | None], size: PoolLimits, *, drafts: bool) -> Runner:
        pool = make_pool(facts.layout, codecs, arrangement, size)
        return Runner(facts.model, pool, handles, together, stops_midway=drafts)

    plain = _codecs(facts, lambda _k, _v: None)
    name = {(True, True): "batched", (False, True): "batched on arrays"}.get(
        (handles, together), "row by row"
    )
    drafts = True
    if error := mismatch(runner(plain, small, drafts=True), probes):
        drafts = False
        recurrent = facts.layout.recurrent
        again = mismatch(runner(plain, small, drafts=False), probes) if recurrent else error
        if again:
            notes.append(f"{name} attention is off: {again}")
            return None
        notes.append("nothing is drafted: recurrent layers cannot stop in the middle of a pass")
    codecs = _codecs(facts, make_codec)
    names = tuple(c.codec.name for c in codecs if c is not None)
    if any(n != "plain" for n in names):
        error = mismatch(runner(codecs, small, drafts=drafts), probes, CODED)
        if error:
            notes.append(f"KV stays plain: with the codec {error}")
            codecs, names = plain, ("plain",) * len(names)
    store = runner(codecs, limits, drafts=drafts)
    return KvPlan(store, names, (*notes, *_plain_layers(names)), facts.state, name)


def make_pool(
    layout: Layout,
    codecs: Sequence[LeafCodec | None],
    arrangement: Arrangement,
    limits: PoolLimits,
) -> Pool:
    """Return a pool whose layers are grouped by what they see, those that see most first."""
    kinds: dict[tuple[int | None, int], list[int]] = {}
    for index, leaf in enumerate(layout.leaves):
        if isinstance(leaf, AttentionLeaf):
            kinds.setdefault((leaf.window, leaf.keep), []).append(index)
    order = sorted(kinds, key=lambda kind: -(kind[0] or 1 << 40))
    member = {leaf: number for number, kind in enumerate(order) for leaf in kinds[kind]}
    groups = tuple(
        Group(window, keep, tuple(kinds[window, keep]), Blocks(limits.of_window(window)))
        for window, keep in order
    )
    places = [member.get(index, 0) for index in range(len(layout.leaves))]
    shape = Shape(layout, codecs, places, arrangement)
    return Pool(shape, groups, limits.block_size, limits.chunk)


def _arrangement(*, compiled: bool) -> Arrangement:
    cpu = mx.default_device().type == mx.DeviceType.cpu
    return Apart() if cpu and not compiled else Joined()


def _window_to_pass(layout: Layout) -> int | None:
    windows = [leaf.window for leaf in layout.leaves if isinstance(leaf, AttentionLeaf)]
    cpu = mx.default_device().type == mx.DeviceType.cpu
    limit = NEAR_WINDOW if cpu else FAR_WINDOW
    return min((w for w in windows if w is not None and w <= limit), default=None)


def _plain_layers(names: Sequence[str]) -> tuple[str, ...]:
    plain = [i for i, name in enumerate(names) if name == "plain"]
    if not plain or len(plain) == len(names):
        return ()
    return (f"KV of attention layers {plain} stays plain: their codec declined",)


def _codecs(facts: _Facts, make_codec: CodecMaker) -> list[LeafCodec | None]:
    return [
        None if pair is None else LeafCodec(make_codec(*pair) or PlainCodec(), *pair)
        for pair in facts.sides
    ]


def _facts(model: CausalModel) -> _Facts:
    """Read shapes off mlx-lm's caches after a call that is never run."""
    caches = make_prompt_cache(model)
    layout = read_layout(caches)
    model(mx.array([[1, 2, 3]]), cache=caches)
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
    return _Facts(model, layout, sides, state)


def _parts(cache: Any) -> Iterator[Any]:
    if hasattr(cache, "caches"):
        for part in cache.caches:
            yield from _parts(part)
    else:
        yield cache


def _pair(index: int, leaf: AttentionLeaf, cache: Any) -> Sides:
    if cache.keys is None:
        raise UnmappedError(f"cache {index} of the model is not used by a plain forward pass")

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
