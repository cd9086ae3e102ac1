"""Put an engine together: policy, model, KV plan, scheduler, decoder."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from attrs import evolve, frozen
from mlx import core as mx
from pluggy import PluginManager

from mlxserve.batch.adapting import adapt
from mlxserve.batch.decoder import Decoder
from mlxserve.batch.embedder import Embedder
from mlxserve.batch.hidden import sights_of
from mlxserve.batch.plan import CodecMaker, KvPlan, PoolLimits, plan_kv
from mlxserve.batch.prefill import Prefiller
from mlxserve.batch.proven import Memory
from mlxserve.batch.runner import Runner
from mlxserve.batch.speculation import Speculator
from mlxserve.batch.store import RowStore
from mlxserve.cache.base import Cache
from mlxserve.cache.build import make_cache
from mlxserve.engine.client import Loaded
from mlxserve.engine.engine import Engine, Outbox
from mlxserve.engine.hosted import Host, Served
from mlxserve.engine.pace import Pace
from mlxserve.engine.scheduler import Capacity, Scheduler
from mlxserve.hooks import ask, gather
from mlxserve.inbox import Inbox
from mlxserve.limits import limits_of
from mlxserve.model.load import LoadedModel, load
from mlxserve.options import EngineOptions
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import (
    HiddenStateProposer,
    KvCodec,
    KvSide,
    ModelCard,
    ModelHost,
    ModelSource,
    PluginError,
    Progress,
    SchedulingPolicy,
    distribution,
    models,
    quantization,
    scheduling,
    speculation,
)
from mlxserve_hookspecs.verdicts import Verdicts


@frozen
class Built:
    """An engine and what the outside may know of it.

    Attributes:
        engine: To be warmed.
        loaded: The model's card and text.
        spent: Seconds by what they went to.
    """

    engine: Engine
    loaded: Loaded
    spent: Mapping[str, float]


def build(
    resolved: Resolved, source: ModelSource, progress: Progress, inbox: Inbox, outbox: Outbox
) -> Built:
    """Load the model at ``source`` and make the engine; on the engine thread.

    Raises:
        MlxserveError: A user's mistake: a broken model, no policy, ...
    """
    policy = ask(resolved.plugins, scheduling.make_policy)()
    if policy is None:
        raise PluginError("no active plugin makes a scheduling policy; see `mlxserve plugins`")
    inbox.meet()
    group = ask(resolved.plugins, distribution.join_group)()
    began = time.monotonic()
    model = load(resolved.plugins, resolved.model, source, group)
    read = time.monotonic()
    capacity = capacity_of(resolved.engine)
    offers = gather(resolved.plugins, models.adapt_model)(model=model.model)
    agreement, memory = Agreement(group), Verdicts("adaptations")
    adapted = tuple(adapt(model.model, offers, model.identity, memory, agreement))
    plan = plan_kv(
        model.model,
        codec_maker(resolved.plugins),
        pool_limits(capacity, model.max_len),
        compiled=_compiled(resolved.engine),
        attention=resolved.engine.attention,
        memory=Memory(" ".join((model.identity, *adapted)), Verdicts("plans"))
        if agreement.alone
        else None,
    )
    plan = evolve(plan, adapted=adapted)
    scheduler = _scheduler(resolved, model, plan, policy, agreement, inbox.wake)
    host = Host(resolved, Served(model.model), model.text, progress, _compiled(resolved.engine))
    engine = _engine(resolved.plugins, model, scheduler, host, inbox, outbox)
    card = _card(resolved, model, plan, engine.scheduler.cache)
    spent = {"weights": read - began, "plan": time.monotonic() - read}
    return Built(engine, Loaded(card, model.text), spent)


def _scheduler(
    resolved: Resolved,
    model: LoadedModel,
    plan: KvPlan,
    policy: SchedulingPolicy,
    agreement: Agreement,
    wake: Callable[[], None],
) -> Scheduler:
    capacity = capacity_of(resolved.engine)
    cache = make_cache(
        resolved.plugins,
        plan,
        model.identity,
        capacity.block_size,
        capacity.blocks,
        agreement,
        wake,
        model.name,
    )
    return Scheduler(plan.store, policy, capacity, cache, pace_of(resolved.engine), agreement)


def _engine(
    plugins: PluginManager,
    model: LoadedModel,
    scheduler: Scheduler,
    host: ModelHost,
    inbox: Inbox,
    outbox: Outbox,
) -> Engine:
    vocab, store, agreement = _vocab(model), scheduler.store, scheduler.agreement
    speculator = make_speculator(plugins, store, vocab, host, agreement)
    return Engine(
        plugins=plugins,
        inbox=inbox,
        outbox=outbox,
        text=model.text,
        scheduler=scheduler,
        prefiller=Prefiller(store, speculator.sights),
        decoder=Decoder(store, vocab, speculator.sights),
        speculator=speculator,
        embedder=Embedder(model.model),
        agreement=agreement,
    )


def make_speculator(
    plugins: PluginManager,
    store: RowStore,
    vocab: int,
    host: ModelHost,
    agreement: Agreement = ALONE,
) -> Speculator:
    """Gather the proposers, and ask for planner and rule if there are any.

    Raises:
        ModelError: A proposer asks for hidden states that this model does not show.
    """
    proposers = gather(plugins, speculation.make_proposer)(vocab_size=vocab, host=host)
    if not proposers:
        return Speculator(store, vocab)
    planner = ask(plugins, speculation.make_draft_planner)()
    rule = ask(plugins, speculation.make_acceptance_rule)()
    sights = sights_of(cast(list[HiddenStateProposer], proposers), store)
    return Speculator(store, vocab, proposers, planner, rule, agreement, sights)


def codec_maker(plugins: PluginManager) -> CodecMaker:
    """Return how a layer's codec is asked for."""

    def make(keys: KvSide, values: KvSide) -> KvCodec | None:
        return ask(plugins, quantization.make_kv_codec)(keys=keys, values=values)

    return make


def pace_of(options: EngineOptions) -> Pace:
    """Return what running streams may see of prompts."""
    return Pace(None if options.max_itl_ms is None else options.max_itl_ms / 1e3)


def pool_limits(capacity: Capacity, longest: int | None = None) -> PoolLimits:
    """Return how large the pool may become."""
    return PoolLimits(
        blocks=capacity.blocks,
        block_size=capacity.block_size,
        live=capacity.live,
        prefilling=capacity.prefilling,
        chunk=max(capacity.chunk_alone, capacity.chunk_shared or 0),
        longest=longest or 1 << 30,
    )


def capacity_of(options: EngineOptions) -> Capacity:
    """Return what may run at once."""
    blocks = options.num_blocks
    if options.max_kv_size is not None:
        blocks = min(blocks, -(-options.max_kv_size // options.block_size))
    return Capacity(
        decoding=options.max_batch_size,
        prefilling=options.prefill_batch_size,
        live=options.completion_batch_size,
        blocks=blocks,
        block_size=options.block_size,
        chunk_alone=options.prefill_chunk_size,
    )


def _compiled(options: EngineOptions) -> bool:
    if options.compile == "auto":
        return bool(mx.default_device().type != mx.DeviceType.cpu)
    return options.compile == "on"


def _vocab(model: LoadedModel) -> int:
    logits = model.model(mx.array([[0]]), cache=None)
    return int(logits.shape[-1])


def _card(resolved: Resolved, model: LoadedModel, plan: KvPlan, cache: Cache) -> ModelCard:
    names = dict.fromkeys(n for n in (model.name, resolved.model.model) if n)
    return ModelCard(
        id=model.name,
        aliases=tuple(names)[1:],
        created=model.created,
        vocab_size=_vocab(model),
        limits=limits_of(resolved, model.max_len, capacity_of(resolved.engine).tokens),
        has_chat_template=model.text.has_chat_template,
        identity=model.identity,
        layout=tuple(_plan_lines(resolved, model, plan, cache)),
        any_name=resolved.model.model_name_check == "off",
        folder=model.source.folder,
        recurrent=bool(cache.states),
    )


def _plan_lines(
    resolved: Resolved, model: LoadedModel, plan: KvPlan, cache: Cache
) -> Iterator[str]:
    """Say what was decided: one line each."""
    capacity = capacity_of(resolved.engine)
    kinds = {name: plan.codecs.count(name) for name in dict.fromkeys(plan.codecs)}
    codecs = ", ".join(f"{name} in {count} layers" for name, count in kinds.items())
    tiers = ", ".join([t.name for t in cache.tiers] + [s.name for s in cache.states])
    yield f"model {model.name} ({model.identity}) from {model.source.folder}"
    yield f"KV: {codecs or 'kept by the model library'}; {_kv_size(plan, capacity)}"
    yield f"cache tiers: {tiers or 'none'}"
    yield (
        f"batch: {capacity.decoding} decoding, {capacity.prefilling} prefilling; "
        f"prefill {capacity.chunk_alone} tokens an iteration, beside others as time allows"
    )
    yield f"attention: {plan.how}"
    yield from plan.adapted
    yield from (f"fallback: {note}" for note in plan.notes)


def _kv_size(plan: KvPlan, capacity: Capacity) -> str:
    if not isinstance(plan.store, Runner):
        return f"budget {capacity.tokens} tokens"
    pool = plan.store.pool
    sizes = [pool.token_bytes(group) for group in pool.groups]
    whole = sum(
        size * (group.blocks.count + 1) * pool.size
        for size, group in zip(sizes, pool.groups, strict=True)
    )
    return f"{sum(sizes)} bytes a token, budget {capacity.tokens} tokens ({whole / 1e9:.2f} GB)"
