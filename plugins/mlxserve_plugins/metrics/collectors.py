"""Figures that others keep: read when somebody looks."""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from mlxserve_hookspecs import EngineStatus

Counts: TypeAlias = Callable[[], Mapping[tuple[str, str], int]]
PREFIX: Final = "mlxserve_"
FINISHED: Final = "finished_"
DIST_FATAL: Final = "dist_fatal"
SUCCESSES: Final = ("stop", "length")
STEMS: Final = {"preemptions": "num_preemptions"}
"""The engine's names for what vLLM calls otherwise."""


class EngineCollector(Collector):
    """The engine's status as gauges and its running totals as counters.

    Args:
        get_status: Returns the engine's status.
        hit_rate: Returns the share of prompt tokens that came from a cache.
        is_clean: Returns whether no shutdown has cut a reply off.
        taken: Names that others use: a name may occur once only, or no scrape succeeds.
    """

    def __init__(
        self,
        get_status: Callable[[], EngineStatus],
        hit_rate: Callable[[], float],
        is_clean: Callable[[], bool],
        taken: Collection[str],
    ) -> None:
        self._get_status = get_status
        self._hit_rate = hit_rate
        self._is_clean = is_clean
        self._taken = frozenset(taken)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: names are known when the engine runs."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return one consistent moment."""
        status = self._get_status()
        clean = self._is_clean() and status.error is None
        named = documented(status, self._hit_rate(), clean=clean)
        named |= {f"{PREFIX}{name}": gauge for name, gauge in gauges(status).items()}
        for name, (about, value) in named.items():
            yield GaugeMetricFamily(name, about, value)
        steps = CounterMetricFamily(f"{PREFIX}engine_steps", "Iterations", float(status.steps))
        yield steps
        yield from totals(status.counters, {steps.name, *named, *self._taken})


def documented(
    status: EngineStatus, hit_rate: float, *, clean: bool
) -> dict[str, tuple[str, float]]:
    """Return the seven gauges of the feature document, under the names that it gives them."""
    free = max(status.total_blocks - status.used_blocks, 0)
    fatal = status.counters.get(DIST_FATAL, 0.0)
    return {
        "active_sequences": ("Sequences that own a row, in prefill or in decode", status.running),
        "queued_requests": ("Requests that wait", status.waiting),
        "used_blocks": ("KV blocks in use by sequences", status.used_blocks),
        "free_blocks": ("KV blocks that sequences can have, cached ones included", free),
        "cache_hit_rate": ("Share of all prompt tokens that came from a cache", hit_rate),
        DIST_FATAL: ("1 when ranks have lost each other", fatal),
        "shutdown_clean": ("1 unless a shutdown cut a reply off or the engine broke", float(clean)),
    }


def gauges(status: EngineStatus) -> dict[str, tuple[str, float]]:
    """Return the status under vLLM's stems, and what vLLM has no name for."""
    used = status.used_blocks / status.total_blocks if status.total_blocks else 0.0
    return {
        "num_requests_running": (
            "Sequences that own a row, in prefill or in decode",
            status.running,
        ),
        "num_requests_waiting": ("Requests that wait", status.waiting),
        "kv_cache_usage_perc": ("Share of KV blocks in use; 1 is all", used),
        "cached_blocks": ("KV blocks that only the cache holds", status.cached_blocks),
        "total_blocks": ("KV blocks altogether", status.total_blocks),
        "engine_ready": ("1 when the model is loaded and warm", float(status.ready)),
        "engine_draining": ("1 when nothing new is let in", float(status.draining)),
        "engine_step_age_seconds": ("Seconds of the step that runs", status.last_step_age),
    }


def totals(counters: Mapping[str, float], taken: Collection[str] = ()) -> Iterator[Metric]:
    """Return the engine's running totals; replies by how they ended, good and bad apart.

    Args:
        counters: The totals by name.
        taken: Names that others use: such a total is left out.
    """
    success = CounterMetricFamily(
        f"{PREFIX}request_success", "Replies that ended by themselves", labels=["finished_reason"]
    )
    failure = CounterMetricFamily(
        f"{PREFIX}request_failure", "Replies that did not", labels=["finished_reason"]
    )
    used = {success.name, failure.name, *taken}
    for name, value in counters.items():
        if name.startswith(FINISHED):
            reason = name.removeprefix(FINISHED)
            (success if reason in SUCCESSES else failure).add_metric([reason], value)
        elif name != DIST_FATAL:
            stem = PREFIX + re.sub(r"\W", "_", STEMS.get(name, name))
            if stem not in used:
                used.add(stem)
                yield CounterMetricFamily(stem, f"Running total of {name}", value)
    yield success
    yield failure


class TierCollector(Collector):
    """What cache tiers say of themselves. They know which figure is a total and which a gauge."""

    def __init__(self) -> None:
        self.stats: Mapping[str, Mapping[str, float]] = {}

    def describe(self) -> Iterator[Metric]:
        """Return nothing, as above."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return every figure of every tier."""
        family = UnknownMetricFamily(
            f"{PREFIX}cache_tier", "A figure of a cache tier", labels=["tier", "figure"]
        )
        for tier, figures in self.stats.items():
            for name, value in figures.items():
                family.add_metric([tier, name], value)
        yield family


class HookCollector(Collector):
    """What plugins did wrong in hooks; the server counts it and goes on.

    Args:
        name: The metric's.
        about: What it says.
        get_counts: Returns the counts by plugin and hook.
    """

    def __init__(self, name: str, about: str, get_counts: Counts) -> None:
        self._name = name
        self._about = about
        self._get_counts = get_counts

    def describe(self) -> Iterator[Metric]:
        """Return nothing, as above."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the counts by plugin and hook."""
        family = CounterMetricFamily(
            f"{PREFIX}{self._name}", self._about, labels=["plugin", "hook"]
        )
        for labels, count in self._get_counts().items():
            family.add_metric(labels, count)
        yield family


class Weighted(Collector):
    """A histogram that takes a value many times at once: a step of 32 tokens is one call.

    Written on one thread; a reader may see a value counted that is not yet in the sum.
    """

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._about = about
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int) -> None:
        """Take ``value`` in, ``times`` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def describe(self) -> Iterator[Metric]:
        """Return the empty histogram."""
        yield HistogramMetricFamily(self._name, self._about)

    def collect(self) -> Iterator[Metric]:
        """Return the histogram as it is."""
        names = (*map(str, self._bounds), "+Inf")
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._about, buckets=buckets, sum_value=self._sum)
