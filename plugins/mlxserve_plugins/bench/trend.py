"""Whether a figure grows, and whether what grows is only a cache that fills. Pure functions."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

from attrs import field, frozen

FULL: Final = 0.97
"""Share of the most that was ever held, from which on caches count as full."""

HOUR: Final = 3600.0
MB: Final = 1e6


@frozen(kw_only=True)
class Sample:
    """A server at one moment; ``None`` is what could not be read.

    Attributes:
        seconds: Since the beginning.
        memory: Bytes of resident memory.
        threads: Of the process.
        files: That it has open.
        used_blocks: KV blocks of live rows.
        cached_blocks: KV blocks that only the cache holds.
        disk_bytes: Of KV on disk.
    """

    seconds: float
    memory: int | None = None
    threads: int | None = None
    files: int | None = None
    used_blocks: float | None = None
    cached_blocks: float | None = None
    disk_bytes: float | None = None


@frozen(kw_only=True)
class Trend:
    """A figure over time: medians of thirds, because single samples rise and fall.

    Attributes:
        first: Median of the first third.
        last: Median of the last third.
        least: The least of all.
        most: The most of all.
        an_hour: How fast it grew in the second half, from its slope.
    """

    first: float
    last: float
    least: float
    most: float
    an_hour: float

    @property
    def growth(self) -> float:
        """From the first third to the last, as a share of the first."""
        return self.last / self.first - 1.0 if self.first else 0.0


@frozen(kw_only=True)
class Verdict:
    """What became of memory.

    Attributes:
        whole: Over all that counts.
        full_after: Seconds after which the caches were full; ``None``: they never were.
        since_full: From then on; ``None``: too little of it.
    """

    whole: Trend
    full_after: float | None = None
    since_full: Trend | None = field(default=None)


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Return the trend of ``(seconds, value)`` points in order; ``None`` of less than three."""
    if len(points) < 3:  # noqa: PLR2004
        return None
    values = [value for _, value in points]
    third = -(-len(values) // 3)
    return Trend(
        first=median(values[:third]),
        last=median(values[-third:]),
        least=min(values),
        most=max(values),
        an_hour=slope(points[len(points) // 2 :]) * HOUR,
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least squares slope; 0 where there is none."""
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * (y - level) for x, y in points) / spread if spread else 0.0


def series(
    samples: Sequence[Sample], read: Callable[[Sample], float | None]
) -> list[tuple[float, float]]:
    """Return the points of one figure where it is known."""
    pairs = ((sample.seconds, read(sample)) for sample in samples)
    return [(seconds, value) for seconds, value in pairs if value is not None]


def held(sample: Sample) -> float | None:
    """Return how many blocks caches and rows hold together: what memory is allocated for."""
    if sample.cached_blocks is None or sample.used_blocks is None:
        return None
    return sample.cached_blocks + sample.used_blocks


def full_after(samples: Sequence[Sample]) -> float | None:
    """Return when rows and caches first held as many blocks as they ever did, within 3 %.

    ``None`` if that was only in the last third: then they may have been filling still.
    """
    points = series(samples, held)
    most = max((value for _, value in points), default=0.0)
    if most <= 0.0:
        return None
    at = next(seconds for seconds, value in points if value >= FULL * most)
    begun, ended = samples[0].seconds, samples[-1].seconds
    return at if at < begun + (ended - begun) * 2 / 3 else None


def judge(samples: Sequence[Sample], warmup: float) -> Verdict | None:
    """Return what became of memory after ``warmup`` seconds; ``None`` if it was not watched."""
    counted = [sample for sample in samples if sample.seconds >= warmup]
    whole = trend(series(counted, lambda sample: sample.memory))
    if whole is None:
        return None
    at = full_after(counted)
    rest = [sample for sample in counted if at is not None and sample.seconds >= at]
    return Verdict(
        whole=whole, full_after=at, since_full=trend(series(rest, lambda sample: sample.memory))
    )


def rows(samples: Sequence[Sample], warmup: float) -> list[dict[str, Any]]:
    """Return a row for each figure that was watched: first third, last third, extremes."""
    counted = [sample for sample in samples if sample.seconds >= warmup]
    readers: dict[str, Callable[[Sample], float | None]] = {
        "memory_MB": lambda one: None if one.memory is None else one.memory / MB,
        "threads": lambda one: one.threads,
        "open_files": lambda one: one.files,
        "used_blocks": lambda one: one.used_blocks,
        "cached_blocks": lambda one: one.cached_blocks,
        "disk_MB": lambda one: None if one.disk_bytes is None else one.disk_bytes / MB,
    }
    found = {name: trend(series(counted, read)) for name, read in readers.items()}
    return [
        {
            "figure": name,
            "first_third": one.first,
            "last_third": one.last,
            "growth_%": 100.0 * one.growth,
            "least": one.least,
            "most": one.most,
            "an_hour": one.an_hour,
        }
        for name, one in found.items()
        if one is not None
    ]


def said(verdict: Verdict | None) -> list[str]:
    """Return the verdict in words."""
    if verdict is None:
        return ["memory was not watched: name the server's process with --pid, or start it with --"]
    lines = [f"resident memory: {_words(verdict.whole)}"]
    if verdict.full_after is None:
        lines.append("the caches were filling until the end: growth cannot be told from filling")
    elif verdict.since_full is not None:
        at = f"the caches were full after {verdict.full_after:.0f} s; from then on"
        lines.append(f"{at}: {_words(verdict.since_full)}")
    return lines


def _words(one: Trend) -> str:
    return (
        f"median {one.first / MB:.1f} MB in the first third, {one.last / MB:.1f} MB in the last "
        f"({100.0 * one.growth:+.2f} %), {one.least / MB:.1f} to {one.most / MB:.1f} MB, "
        f"{one.an_hour / MB:+.1f} MB an hour in the second half"
    )
