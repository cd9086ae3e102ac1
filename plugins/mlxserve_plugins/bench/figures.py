"""Figures from what clients saw: pure functions of traces."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Any

from attrs import field, frozen

MS = 1000.0
SHED = frozenset({0, 429, 503})
"""Statuses of a server that sheds load; 0 is a connection that was not taken."""


@frozen(kw_only=True)
class Trace:
    """What one client saw of one streamed reply; times in seconds of one clock.

    Attributes:
        sent: When it asked.
        arrivals: When text arrived.
        ended: When the stream ended.
        prompt_tokens: As the server counted them.
        completion_tokens: Likewise.
        cached_tokens: Prompt tokens that the server had in a cache.
        text: The reply.
        status: The HTTP status; 0 if there was none.
        error: What went wrong, if something did.
    """

    sent: float
    arrivals: tuple[float, ...] = field(default=(), repr=False)
    ended: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    text: str = field(default="", repr=False)
    status: int = 200
    error: str | None = None

    @property
    def refused(self) -> bool:
        """Whether the server did not take the request: no connection, or too busy."""
        return self.error is not None and not self.arrivals and self.status in SHED

    @property
    def ttft(self) -> float | None:
        """Seconds to the first text."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def gaps(self) -> Sequence[float]:
        """Seconds between arrivals (ITL as a client sees it)."""
        return [after - before for before, after in pairwise(self.arrivals)]

    @property
    def token_seconds(self) -> float | None:
        """Mean seconds per token after the first."""
        if self.completion_tokens < 2 or not self.arrivals:  # noqa: PLR2004
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.completion_tokens - 1)


@frozen(kw_only=True)
class Goals:
    """What a request must meet to count towards goodput: milliseconds, ``None`` is no goal."""

    ttft: float | None = None
    itl: float | None = None

    def met(self, trace: Trace) -> bool:
        """Return whether a request met them; the ITL of a request is its mean."""
        if trace.error or trace.ttft is None:
            return False
        quick = self.ttft is None or trace.ttft * MS <= self.ttft
        per_token = trace.token_seconds
        return quick and (self.itl is None or per_token is None or per_token * MS <= self.itl)


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(1, ceil(share * len(ordered))) - 1] if ordered else None


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(value: float | None, base: float | None) -> float | None:
    """Return ``value / base`` where both are known."""
    return None if value is None or not base else value / base


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds."""
    return None if seconds is None else seconds * MS


def rate(traces: Sequence[Trace]) -> float | None:
    """Return generated tokens per second, from the first request sent to the last stream's end."""
    good = [trace for trace in traces if not trace.error]
    if not good:
        return None
    seconds = max(trace.ended for trace in good) - min(trace.sent for trace in good)
    return sum(trace.completion_tokens for trace in good) / seconds


def decode_rate(traces: Sequence[Trace]) -> float | None:
    """Return the median over requests of tokens per second after the first."""
    return middle(ratio(1.0, trace.token_seconds) for trace in traces if not trace.error)


def summary(traces: Sequence[Trace], goals: Goals) -> dict[str, Any]:
    """Return the figures of one run at one concurrency."""
    good = [trace for trace in traces if not trace.error]
    firsts = [trace.ttft for trace in good if trace.ttft is not None]
    gaps = [gap for trace in good for gap in trace.gaps]
    seconds = max((trace.ended for trace in good), default=0.0) - min(
        (trace.sent for trace in good), default=0.0
    )
    found: dict[str, Any] = {
        "tokens/s": rate(traces),
        "prompt_tokens": middle(trace.prompt_tokens for trace in good),
        "tokens": middle(trace.completion_tokens for trace in good),
        **{f"ttft_p{n}_ms": milliseconds(percentile(firsts, n / 100)) for n in (50, 90, 99)},
        **{f"itl_p{n}_ms": milliseconds(percentile(gaps, n / 100)) for n in (50, 90, 99)},
        "failed": len(traces) - len(good),
    }
    if goals != Goals():
        found["goodput/s"] = sum(map(goals.met, traces)) / seconds if seconds else 0.0
    return found


def progress(arrivals: Sequence[float], start: float, end: float) -> float:
    """Return how many tokens a stream made between two times, parts of a token included."""
    made = 0.0
    for before, after in pairwise(arrivals):
        overlap = min(after, end) - max(before, start)
        if overlap > 0.0:
            made += overlap / (after - before)
    return made
