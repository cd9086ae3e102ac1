"""Two servers' figures, run for run: ratios with their spread. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from mlxserve_plugins.bench.figures import (
    Trace,
    decode_rate,
    middle,
    milliseconds,
    percentile,
    rate,
    ratio,
)

Figures: TypeAlias = Mapping[str, float | None]

MORE_IS_BETTER: Final = frozenset({"tokens/s", "decode/s"})
COUNTS: Final = ("asked", "refused", "failed", "tokens")
"""Said beside the figures, and not compared."""


@frozen(kw_only=True)
class Pair:
    """One run of each server with the same requests.

    Attributes:
        ours: What mlxserve did.
        other: What the other one did right after it.
    """

    ours: Figures
    other: Figures


@frozen(kw_only=True)
class Series:
    """All pairs of one scenario at one number of clients.

    Attributes:
        scenario: Its name.
        clients: How many asked at once.
        against: The other server.
        pairs: In the order in which they ran.
    """

    scenario: str
    clients: int
    against: str
    pairs: Sequence[Pair] = field(repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each figure that is compared."""
        names = dict.fromkeys(name for pair in self.pairs for name in pair.ours)
        return [self._row(name) for name in names if name not in COUNTS]

    def _row(self, name: str) -> dict[str, Any]:
        found = [speedup(name, pair.ours.get(name), pair.other.get(name)) for pair in self.pairs]
        known = [value for value in found if value is not None]
        return {
            "scenario": self.scenario,
            "clients": self.clients,
            "against": self.against,
            "figure": name,
            "mlxserve": middle(pair.ours.get(name) for pair in self.pairs),
            "other": middle(pair.other.get(name) for pair in self.pairs),
            "speedup": middle(known),
            "least": min(known, default=None),
            "most": max(known, default=None),
            "pairs": len(known),
            "refused": self._counted("refused"),
            "failed": self._counted("failed"),
        }

    def _counted(self, name: str) -> str:
        ours = sum(int(pair.ours.get(name) or 0) for pair in self.pairs)
        other = sum(int(pair.other.get(name) or 0) for pair in self.pairs)
        asked = sum(int(pair.ours.get("asked") or 0) for pair in self.pairs)
        return f"{ours} / {other} of {asked}"


def speedup(name: str, ours: float | None, other: float | None) -> float | None:
    """Return how many times better ``ours`` is: above 1 is better, for rates and for times."""
    if name in MORE_IS_BETTER:
        return ratio(ours, other)
    return ratio(other, ours)


def figures(traces: Sequence[Trace]) -> dict[str, float | None]:
    """Return one run's figures: rates of what was answered, and counts of what was not."""
    good = [trace for trace in traces if not trace.error]
    firsts = [trace.ttft for trace in good if trace.ttft is not None]
    gaps = [gap for trace in good for gap in trace.gaps]
    refused = sum(trace.refused for trace in traces)
    return {
        "tokens/s": rate(traces),
        "decode/s": decode_rate(traces),
        **{f"ttft_p{n}_ms": milliseconds(percentile(firsts, n / 100)) for n in (50, 99)},
        **{f"itl_p{n}_ms": milliseconds(percentile(gaps, n / 100)) for n in (50, 99)},
        "asked": len(traces),
        "refused": refused,
        "failed": len(traces) - len(good) - refused,
        "tokens": middle(trace.completion_tokens for trace in good),
    }


def gaps_within(traces: Sequence[Trace], start: float, end: float) -> list[float]:
    """Return the gaps between arrivals that have a part of the time from ``start`` to ``end``."""
    return [
        after - before
        for trace in traces
        for before, after in zip(trace.arrivals, trace.arrivals[1:], strict=False)
        if before < end and after > start
    ]
