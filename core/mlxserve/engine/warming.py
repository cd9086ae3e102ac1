"""Do once, before anybody waits, what is slow the first time."""

import time
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

KINDS: Final = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.7, top_p=0.9, seed=0),
)


def warm_passes(engine: Engine) -> None:
    """Trace the usual passes and measure prefill; on several ranks each of them must."""
    scheduler, speculator = engine.scheduler, engine.speculator
    drafts = bool(speculator.proposers) and scheduler.store.drafts_fit
    widths = WIDTHS if drafts else WIDTHS[:1]
    scheduler.store.warm(scheduler.capacity.decoding, widths)
    calibrate(scheduler.store, scheduler.pace)


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
    few_seconds, many_seconds = (_prefill_seconds(store, n, 1 + (not cpu)) for n in (FEW, many))
    pace.calibrate((FEW, few_seconds), (many, many_seconds))


def _prefill_seconds(store: RowStore, tokens: int, runs: int) -> float:
    spent = []
    for _ in range(runs):
        row = store.open()
        if not store.room(row, tokens):
            store.close(row)
            return 0.0
        began = time.perf_counter()
        store.prefill([Chunk(row, [1] * tokens)])
        mx.eval(store.pending([row]))
        spent.append(time.perf_counter() - began)
        store.close(row)
    return min(spent)
