"""Do once, before anybody waits, what is slow the first time."""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

import mlx.core as mx

from mlxserve.batch.compiled import WIDTHS
from mlxserve.batch.store import Chunk, RowStore
from mlxserve.engine.engine import Engine
from mlxserve.engine.pace import Pace
from mlxserve.inbox import Inbox, Submit
from mlxserve.loading import register
from mlxserve_hookspecs import (
    GenerationEvent,
    GenerationRequest,
    ModelError,
    SamplingParams,
    StopConditions,
)

FEW, MANY = 16, (64, 512)
"""Prompt tokens of the passes whose time is taken: on a CPU, and elsewhere."""

FEW_ROWS: Final = 8
"""Rows up to which drafts are usual: for more of them they seldom pay."""

KINDS: Final = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.7, top_p=0.9, seed=0),
)


def warm_passes(engine: Engine) -> None:
    """Trace the usual passes and measure prefill; on several ranks each of them must.

    What is less usual is left to the engine, for when it has nothing to do: drafts where nobody
    asks for them in general, or for many rows. Ranks have no such time of their own.
    """
    scheduler, proposers = engine.scheduler, engine.speculator.proposers
    store, rows = scheduler.store, scheduler.capacity.decoding
    usual: list[Iterator[None]] = [store.warm(rows, WIDTHS[:1])]
    if proposers and store.drafts_fit:
        more = store.warm(rows, WIDTHS[1:])
        if not engine.agreement.alone:
            usual.append(more)
        else:
            engine.spare = more
            if not all(getattr(proposer, "on_request", False) for proposer in proposers):
                usual.append(store.warm(min(rows, FEW_ROWS), WIDTHS[1:]))
    for _ in chain.from_iterable(usual):
        pass
    calibrate(store, scheduler.pace)


def warm_up(engine: Engine, inbox: Inbox) -> None:
    """Warm the passes, and run short requests from end to end; the other ranks follow.

    No plugin hears of it and no counter counts it.

    Raises:
        ModelError: The model cannot generate.
    """
    warm_passes(engine)
    scheduler = engine.scheduler
    events: list[GenerationEvent] = []
    plugins, outbox = engine.plugins, engine.outbox
    engine.plugins, engine.outbox = register({}), events.extend
    for number, sampling in enumerate(KINDS):
        request = GenerationRequest(
            id=f"warm-up {number}",
            prompt=(1, 2, 3, 4),
            sampling=sampling,
            stop=StopConditions(max_tokens=3, ignore_eos=True),
        )
        inbox.put(Submit(request, time.monotonic(), 0))
    engine.step()
    while not scheduler.idle:
        engine.step()
    engine.plugins, engine.outbox = plugins, outbox
    engine.counters.clear()
    engine.steps, engine.ready_traces = 0, engine.traces
    errors = [e.finish.error for e in events if e.finish and e.finish.error]
    if errors:
        raise ModelError(f"the model is loaded and fails to generate: {errors[0].message}")


def calibrate(store: RowStore, pace: Pace) -> None:
    """Take the time of two prefill passes, the first run of each not counted."""
    cpu = mx.default_device().type == mx.DeviceType.cpu
    many = MANY[0] if cpu else MANY[1]
    if not cpu and not store.exclusive_prefill:
        _prefill_seconds(store, FEW // 2, 1, rows=2)  # compiles what only several rows need
    few_seconds, many_seconds = (_prefill_seconds(store, n, 1 + (not cpu)) for n in (FEW, many))
    pace.calibrate((FEW, few_seconds), (many, many_seconds))


def _prefill_seconds(store: RowStore, tokens: int, runs: int, rows: int = 1) -> float:
    spent = []
    for _ in range(runs):
        opened = [store.open() for _ in range(rows)]
        if all(store.room(row, tokens) for row in opened):
            began = time.perf_counter()
            store.prefill([Chunk(row, [1] * (tokens - at)) for at, row in enumerate(opened)])
            mx.eval(store.pending(opened))
            spent.append(time.perf_counter() - began)
        for row in opened:
            store.close(row)
    return min(spent, default=0.0)
