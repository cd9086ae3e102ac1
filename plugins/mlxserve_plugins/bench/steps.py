"""``bench engine``: what decode steps take without a server, and what memory alone would allow."""

import time
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import CommandHost, EngineBench, EngineFacts, MlxserveError, StepCost
from mlxserve_plugins.bench.figures import MS
from mlxserve_plugins.bench.flags import Common, count, counts, flag, need_words
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.report import Plot, Report, tell

COPIED_BYTES: Final = 256 * 2**20
COPIES: Final = 8


@frozen(kw_only=True)
class EngineFlags(Common):
    """What ``bench engine`` can be told; the model and the server's flags follow after ``--``."""

    rows: tuple[int, ...] = flag((1, 8, 32, 64), "sequences in the batch", counts)
    context: tuple[int, ...] = flag((128, 1024, 4096), "tokens that each holds", counts)
    width: tuple[int, ...] = flag((1,), "tokens that each runs in a step", counts)
    codecs: tuple[int, ...] = flag((), "values of --kv-bits, one engine after the other", counts)
    steps: int = flag(20, "steps that are timed, of each shape", count)


@frozen(kw_only=True)
class Shape:
    """A batch of one shape."""

    rows: int
    context: int
    width: int


def engine(flags: EngineFlags, words: Sequence[str], host: CommandHost) -> Report:
    """Measure every shape on an engine of every codec."""
    need_words("engine", words)
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    failures: list[str] = []
    variants: list[tuple[str, ...]] = [("--kv-bits", str(bits)) for bits in flags.codecs] or [()]
    shapes = [
        Shape(rows=r, context=c, width=w)
        for w, c, r in product(flags.width, flags.context, flags.rows)
    ]
    bandwidth = copy_bandwidth()
    with Bar(len(variants) * len(shapes)) as bar:
        for variant in variants:
            with host.open_engine((*words, *variant)) as one:
                for shape in shapes:
                    bar.now(f"{one.facts.codec}: {shape.rows} x {shape.context} x {shape.width}")
                    try:
                        cost = _decode(one, shape, flags.steps)
                    except MlxserveError as error:
                        failures.append(f"{shape.rows} rows of {shape.context}: {error}")
                        continue
                    rows.append(row(one.facts, shape, cost, bandwidth))
                    raw.append({**rows[-1], "seconds": [*cost.seconds]})
    notes = [
        f"copies run at {bandwidth / 1e9:.0f} GB/s (read and written bytes); bound_ms: weights and "
        "KV read once at that rate",
        "x_bound: step over bound; operations: kernels of a step; traces: while steps were timed",
        *(f"left out: {line}" for line in failures),
    ]
    title = f"Decode steps, medians of {flags.steps}"
    return Report(title=title, rows=rows, notes=notes, raw=raw, plots=plots(rows))


def row(facts: EngineFacts, shape: Shape, cost: StepCost, bandwidth: float) -> dict[str, Any]:
    """Return a shape's figures.

    Args:
        facts: Of the engine.
        shape: What ran.
        cost: What it took.
        bandwidth: Bytes a second that memory moves.
    """
    seconds = median(cost.seconds)
    read = facts.weight_bytes + shape.rows * shape.context * facts.kv_token_bytes
    bound = read / bandwidth
    return {
        "codec": facts.codec,
        "rows": shape.rows,
        "context": shape.context,
        "width": shape.width,
        "step_ms": seconds * MS,
        "worst_ms": max(cost.seconds) * MS,
        "tokens/s": shape.rows * shape.width / seconds,
        "bound_ms": bound * MS,
        "x_bound": seconds / bound,
        "operations": cost.operations,
        "traces": cost.traces,
    }


def copy_bandwidth(
    size: int = COPIED_BYTES, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return how many bytes a second a copy of ``size`` bytes reads and writes, together."""
    import mlx.core as mx  # noqa: PLC0415 - only where an engine runs

    source = mx.zeros((size // 4,), mx.float32)
    mx.eval(source)
    best = float("inf")
    for turn in range(COPIES):
        began = clock()
        mx.eval(source + float(turn))  # an array that is only copied would be shared
        best = min(best, clock() - began)
    return 2 * size / best


def plots(rows: Sequence[dict[str, Any]]) -> list[Plot]:
    """Return step time and rate by rows, a line for each codec and context."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {"step_ms": {}, "tokens/s": {}}
    for one in rows:
        wide = f", width {one['width']}" if one["width"] > 1 else ""
        name = f"{one['codec']}, {one['context']} tokens{wide}"
        for figure, of_it in lines.items():
            of_it.setdefault(name, []).append((one["rows"], one[figure]))
    names = {"step_ms": "engine-step", "tokens/s": "engine-rate"}
    return [
        Plot(name=names[figure], title="Decode step", x="rows", y=figure, lines=of_it)
        for figure, of_it in lines.items()
        if rows
    ]


def _decode(one: EngineBench, shape: Shape, steps: int) -> StepCost:
    cost = one.decode(rows=shape.rows, context=shape.context, width=shape.width, steps=steps)
    if cost.traces:
        tell(f"{cost.traces} traces while {shape.rows} rows of {shape.context} were timed")
    return cost
