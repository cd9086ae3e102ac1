"""Decide at start how a model's KV is held, and prove it against mlx-lm before serving."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import mlx.core as mx
from attrs import evolve, field, frozen
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.attention.kernels import Kernels
from mlxserve.attention.seam import bind
from mlxserve.attention.views import Ways
from mlxserve.batch.compiled import Compiled
from mlxserve.batch.facts import Facts, facts_of
from mlxserve.batch.proof import Probe, alone, mismatch, probes_of, stops_midway
from mlxserve.batch.proven import Memory, Proven, written_in
from mlxserve.batch.runner import Runner
from mlxserve.batch.solo import SoloStore
from mlxserve.batch.store import RowStore
from mlxserve.model.causal import CausalModel
from mlxserve.pool.blocks import Blocks
from mlxserve.pool.codec import PlainCodec
from mlxserve.pool.layout import AttentionLeaf, Layout, UnmappedError
from mlxserve.pool.planes import Apart, Arrangement, Joined, LeafCodec
from mlxserve.pool.pool import Group, Pool, Shape
from mlxserve_hookspecs import KvCodec, KvSide, ModelError

CodecMaker: TypeAlias = Callable[[KvSide, KvSide], KvCodec | None]
Way: TypeAlias = Literal["auto", "kernel", "gather"]
PROBE_BLOCKS = 512
FAR_WINDOW = 4096
"""The longest window that a proof on a GPU passes; on a CPU a longer one costs seconds."""

NEAR_WINDOW = 128
WAYS = (
    ("batched", Ways()),
    ("batched on arrays", Ways(handles=False)),
    ("batched on arrays, masks of five dimensions", Ways(handles=False, mask_rank=5)),
    ("row by row", Ways(handles=False, together=False)),
)


@frozen
class PoolLimits:
    """How large a pool may become.

    Attributes:
        blocks: Blocks of the layers that see all tokens.
        block_size: Tokens per block.
        live: Rows at once.
        prefilling: Rows in prefill at once.
        chunk: Most prompt tokens that a row takes in one pass.
        longest: Tokens of the longest sequence.
    """

    blocks: int
    block_size: int
    live: int
    prefilling: int
    chunk: int
    longest: int = 1 << 30

    def of_window(self, window: int | None) -> int:
        """Return how many blocks layers need that see ``window`` tokens, with some to be found."""
        if window is None:
            return self.blocks
        behind = -(-window // self.block_size) + 2
        chunks = self.prefilling * -(-self.chunk // self.block_size)
        return min(self.blocks, self.live * behind + chunks + self.blocks // 4)

    @property
    def reach(self) -> int:
        """Tokens that one sequence can have at most."""
        return min(self.longest, self.blocks * self.block_size)


@frozen
class KvPlan:
    """How KV is held.

    Attributes:
        store: Holds it.
        codecs: The codec's name per attention layer, in order.
        notes: What falls back and why, one line each.
        state: The recurrent layers' arrays for one sequence, as (shape, dtype).
        how: How the layers attend.
        adapted: How plugins changed the model, one line each.
    """

    store: RowStore
    codecs: tuple[str, ...]
    notes: tuple[str, ...]
    state: tuple[tuple[tuple[int, ...], mx.Dtype], ...] = ()
    how: str = "one sequence at a time"
    adapted: tuple[str, ...] = ()


def plan_kv(
    model: CausalModel,
    make_codec: CodecMaker,
    limits: PoolLimits,
    *,
    compiled: bool,
    attention: Way = "auto",
    memory: Memory | None = None,
) -> KvPlan:
    """Return the fastest layout that gives mlx-lm's own logits for a few probe rows.

    Tried in order: all rows in one pass through the attention seam; all rows in one pass on real
    arrays; a pass for each row; mlx-lm's own caches, one sequence at a time. With ``memory`` what
    an earlier start has proved is not proved again.

    Raises:
        ModelError: mlx-lm itself cannot run the model.
    """
    notes: list[str] = []
    try:
        facts = facts_of(model)
    except UnmappedError as reason:
        notes.append(str(reason))
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"mlx-lm cannot run this model: {words}") from error
    else:
        bind(model)
        planner = _Planner(facts, make_codec, limits, notes, memory)
        if found := planner.find(compiled=compiled, attention=attention):
            return found
    notes.append("KV is held in mlx-lm's own caches, one sequence at a time: slower, no reuse")
    return KvPlan(SoloStore(model, lambda: make_prompt_cache(model)), (), tuple(notes))


@frozen(eq=False)
class _Planner:
    """Tries one way after the other, and notes why those before the one it returns fail."""

    facts: Facts
    make_codec: CodecMaker
    limits: PoolLimits
    notes: list[str]
    memory: Memory | None
    _probes: list[Probe] = field(factory=list)

    @property
    def probes(self) -> Sequence[Probe]:
        """The rows that are run; mlx-lm's own logits for them take a moment, and come once."""
        if not self._probes:
            facts = self.facts
            self._probes.extend(probes_of(facts.model, facts.vocab, _to_pass(facts)))
        return self._probes

    def find(self, *, compiled: bool, attention: Way) -> KvPlan | None:
        arrangement = _arrangement(compiled=compiled, attention=attention)
        kernels = None
        if attention != "gather" and isinstance(arrangement, Joined):
            kernels = Kernels.native(self.facts.model, self.limits.block_size, self.notes)
        pages = self._has_pages() and attention != "gather" and isinstance(arrangement, Joined)
        if kernels is None and not pages and attention == "kernel":
            self.notes.append("--attention kernel: this device has none; gather instead")
        best = _Maker(self.facts, arrangement, Ways(), kernels, compiled, pages)
        code = written_in(codec for codec in self._made() if codec is not None)
        asked = f"{self._codecs()} {code} {self.limits.block_size} {compiled} {attention}"
        proven = None if self.memory is None else self.memory.find(asked)
        if proven is not None and (not proven.kernels or best.by_kernel):
            maker = evolve(best, ways=dict(WAYS)[proven.way], compiled=proven.compiled)
            self.notes[:] = proven.notes
            return self._plan(maker if proven.kernels else maker.gathering(), proven)
        for name, ways in WAYS:
            tries = [best]
            if best.by_kernel:
                tries.append(best.gathering())
            if compiled:
                tries.append(evolve(best.gathering(), compiled=False))
            for maker in (evolve(each, ways=ways) for each in tries):
                if found := self._try(name, maker):
                    if self.memory is not None:
                        self.memory.keep(asked, found)
                    return self._plan(maker, found)
        return None

    def _codecs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys("plain" if c is None else c.name for c in self._made()))

    def _has_pages(self) -> bool:
        return any(getattr(codec, "pages", False) for codec in self._made())

    def _made(self) -> Iterator[KvCodec | None]:
        return (self.make_codec(*pair) for pair in self.facts.sides if pair is not None)

    def _try(self, name: str, maker: "_Maker") -> Proven | None:
        """Prove one way; return the proof, or ``None`` and a note that says why there is none."""
        if maker.compiled and not maker.ways.together:
            return None
        if maker.ways.together and not maker.ways.handles and (self.facts.budget or 0) > _far():
            self.notes.append(f"{name} attention is off: its budget is too large to be proved")
            return None
        simple = not maker.by_kernel and not maker.compiled
        coded = any(codec != "plain" for codec in self._codecs())
        # What is served is proved. With a codec that is plain KV in the simplest way against
        # mlx-lm, then the codec as it will be served against itself in the simplest way.
        first = evolve(maker.gathering(), compiled=False) if coded else maker
        small = evolve(self.limits, blocks=PROBE_BLOCKS, live=4, prefilling=1)
        plain = first.codecs(lambda _k, _v: None)
        drafts = True
        if self.facts.layout.recurrent:
            drafts = stops_midway(first.runner(plain, small, drafts=True), self.probes)
        error = mismatch(first.runner(plain, small, drafts=drafts), self.probes)
        fault = None
        if coded and not error:
            fault = self._codec_fault(maker, small, drafts=drafts)
            error = None if simple else fault
        if error:
            by = ", by kernel" if maker.by_kernel else ""
            how = f"{', compiled' if maker.compiled else ''}{by}"
            self.notes.append(f"{name}{how} attention is off: {error}")
            return None
        if fault:
            self.notes.append(f"KV stays plain: with the codec {fault}")
        if not drafts:
            self.notes.append(
                "nothing is drafted: recurrent layers of this model cannot stop midway in a pass"
            )
        return Proven(
            way=name,
            kernels=maker.by_kernel,
            compiled=maker.compiled,
            drafts=drafts,
            plain=bool(fault),
            notes=tuple(self.notes),
        )

    def _plan(self, maker: "_Maker", proven: Proven) -> KvPlan:
        codecs = maker.codecs((lambda _k, _v: None) if proven.plain else self.make_codec)
        names = tuple(c.codec.name for c in codecs if c is not None)
        store = maker.runner(codecs, self.limits, drafts=proven.drafts, whole=True)
        notes = (*self.notes, *_plain_layers(names))
        return KvPlan(store, names, notes, self.facts.state, maker.describe(proven.way))

    def _codec_fault(self, maker: "_Maker", small: PoolLimits, *, drafts: bool) -> str | None:
        """Compare rows together, as they will be served, with each alone; both with the codec."""
        simple = evolve(maker.gathering(), compiled=False)
        try:
            runner = simple.runner(simple.codecs(self.make_codec), small, drafts=drafts)
            probes = alone(runner, self.probes)
        except Exception as error:  # a codec is a plugin's
            return f"{type(error).__name__}: {error}"
        codecs = maker.codecs(self.make_codec)
        return mismatch(maker.runner(codecs, small, drafts=drafts), probes)


@frozen(eq=False)
class _Maker:
    """Makes runners of one way.

    Attributes:
        facts: The model's.
        arrangement: How planes lie.
        ways: What the model takes its caches for.
        kernels: The core's, where this device has any.
        compiled: Whether passes are compiled.
        pages: Whether codecs' own kernels are asked.
    """

    facts: Facts
    arrangement: Arrangement
    ways: Ways
    kernels: Kernels | None
    compiled: bool
    pages: bool

    @property
    def by_kernel(self) -> bool:
        """Whether any kernel attends."""
        return self.kernels is not None or self.pages

    def gathering(self) -> "_Maker":
        """Return the same without kernels."""
        return evolve(self, kernels=None, pages=False)

    def codecs(self, make_codec: CodecMaker) -> list[LeafCodec | None]:
        found: list[LeafCodec | None] = []
        for pair in self.facts.sides:
            if pair is None:
                found.append(None)
                continue
            codec = LeafCodec(make_codec(*pair) or PlainCodec(), *pair)
            if self.pages and self.ways.handles and getattr(codec.codec, "pages", False):
                codec = evolve(codec, pages=True)
            elif self.kernels is not None and self.ways.handles:
                codec = evolve(codec, kernel=self.kernels.of(codec))
            found.append(codec)
        return found

    def runner(
        self,
        codecs: Sequence[LeafCodec | None],
        limits: PoolLimits,
        *,
        drafts: bool,
        whole: bool = False,
    ) -> Runner:
        pool = make_pool(
            self.facts.layout, codecs, self.arrangement, limits, windows=self.ways.handles
        )
        if whole and self.compiled:
            pool.first = _first(pool)
        runner = Runner(self.facts.model, pool, self.ways, drafts)
        held = [codec for codec in codecs if codec is not None]
        if self.compiled:
            runner.compiled = Compiled(
                self.facts.model,
                pool,
                self.ways,
                limits.reach,
                bool(held) and all(c.pages or c.kernel is not None for c in held),
                self.facts.state,
            )
        return runner

    def describe(self, name: str) -> str:
        how = "by kernel" if self.by_kernel else "gathered"
        how = "in place" if isinstance(self.arrangement, Apart) else how
        return f"{name}, {how}, {'compiled' if self.compiled else 'eager'}"


def make_pool(
    layout: Layout,
    codecs: Sequence[LeafCodec | None],
    arrangement: Arrangement,
    limits: PoolLimits,
    *,
    windows: bool,
) -> Pool:
    """Return a pool whose layers are grouped by what they see, those that see most first.

    Args:
        layout: The model's layers.
        codecs: One per leaf; ``None`` for those that hold no keys.
        arrangement: How planes lie.
        limits: How large it may become.
        windows: Whether layers give back what lies behind their window.
    """
    kinds: dict[tuple[int | None, int], list[int]] = {}
    for index, leaf in enumerate(layout.leaves):
        if isinstance(leaf, AttentionLeaf) and codecs[index] is not None:
            kinds.setdefault((leaf.window if windows else None, leaf.keep), []).append(index)
    order = sorted(kinds, key=lambda kind: -(kind[0] or 1 << 40))
    member = {leaf: number for number, kind in enumerate(order) for leaf in kinds[kind]}
    groups = tuple(
        Group(window, keep, tuple(kinds[window, keep]), Blocks(limits.of_window(window)))
        for window, keep in order
    )
    places = [member.get(index, 0) for index in range(len(layout.leaves))]
    shape = Shape(layout, codecs, places, arrangement)
    return Pool(shape, groups, limits.block_size, limits.chunk)


def _first(pool: Pool) -> int:
    """Return how many blocks to begin with: all, where that leaves a quarter of what is free.

    A compiled pass is of one shape of planes: each growth would trace it anew.
    """
    whole = sum(pool.token_bytes(g) * (g.blocks.count + 1) * pool.size for g in pool.groups)
    return 1 << 30 if whole <= 0.75 * free_memory() else pool.first


def free_memory() -> int:
    """Return how many bytes of the device's memory this process may still take."""
    info: Any = mx.device_info()
    if "free_memory" in info:  # CUDA
        return int(info["free_memory"]) + mx.get_cache_memory()
    most = info.get("max_recommended_working_set_size") or info.get("memory_size") or 0
    return int(most) - mx.get_active_memory()


def _arrangement(*, compiled: bool, attention: Way) -> Arrangement:
    cpu = mx.default_device().type == mx.DeviceType.cpu
    return Apart() if cpu and not compiled and attention == "auto" else Joined()


def _far() -> int:
    """Return how many tokens a probe may have."""
    return NEAR_WINDOW if mx.default_device().type == mx.DeviceType.cpu else FAR_WINDOW


def _to_pass(facts: Facts) -> int | None:
    """Return a length past which layers see less, as far as the proof can go."""
    windows = [x.window for x in facts.layout.leaves if isinstance(x, AttentionLeaf)]
    near = [w for w in (*windows, facts.budget) if w is not None and w <= _far()]
    return max(near, default=None)


def _plain_layers(names: Sequence[str]) -> Iterator[str]:
    plain = [i for i, name in enumerate(names) if name == "plain"]
    if plain and len(plain) < len(names):
        yield f"KV of attention layers {plain} stays plain: their codec declined"
