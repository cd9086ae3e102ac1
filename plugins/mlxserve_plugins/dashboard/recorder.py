"""What the dashboard remembers: small rings, written on the engine thread, read on the loop."""

from collections import deque
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any, Final

from attrs import define, field

from mlxserve_hookspecs import EngineStatus, Finish, Iteration, Verdict
from mlxserve_plugins.dashboard.totals import RECENT_S, Totals

HISTORY_S: Final = 120
"""Seconds that the charts show."""

RATE_S: Final = 5
"""Whole seconds over which the present speed is averaged."""

FIRST_TOKENS: Final = 1024
STEPS: Final = 4096
QUANTILES: Final = (50, 95, 99)

Timed = tuple[float, float, int]
"""When a duration was seen, the duration in seconds, and how many tokens it stands for."""


@define
class Second:
    """What one second of the clock brought; gauges are the largest that were seen in it."""

    at: int
    decoded: int = 0
    prefilled: int = 0
    running: int = 0
    waiting: int = 0
    used_blocks: int = 0

    def saw(self, status: EngineStatus) -> None:
        """Take the gauges in."""
        self.running = max(self.running, status.running)
        self.waiting = max(self.waiting, status.waiting)
        self.used_blocks = max(self.used_blocks, status.used_blocks)


@define(eq=False)
class Recorder:
    """Bounded whatever the load: the oldest goes first.

    Attributes:
        began: When recording began.
    """

    began: float
    totals: Totals = field(init=False)
    _seconds: deque[Second] = field(factory=lambda: deque(maxlen=HISTORY_S + 1))
    _first_tokens: deque[Timed] = field(factory=lambda: deque(maxlen=FIRST_TOKENS))
    _steps: deque[Timed] = field(factory=lambda: deque(maxlen=STEPS))
    _lock: Lock = field(factory=Lock)

    def __attrs_post_init__(self) -> None:
        self.totals = Totals(self.began)

    # -- what happens ------------------------------------------------------------------------

    def first_token(self, now: float, seconds: float) -> None:
        """Take in a first token that came ``seconds`` after its request."""
        with self._lock:
            self._first_tokens.append((now, seconds, 1))

    def iterated(self, now: float, iteration: Iteration) -> None:
        """Take in an iteration that ended now."""
        with self._lock:
            second = self._second(now)
            second.decoded += iteration.decoded
            second.prefilled += iteration.prefilled
            second.saw(iteration.status)
            if iteration.decoded:
                self._steps.append((now, iteration.seconds, iteration.decoded))

    def finished(self, now: float, choice: int, finish: Finish) -> None:
        """Take in how a choice ended."""
        with self._lock:
            self.totals.ended(now, choice, finish)

    def refused(self, now: float, status: int, code: str) -> None:
        """Take in that a request was not let in."""
        with self._lock:
            self.totals.was_refused(now, status, code)

    def verified(self, verdicts: Sequence[Verdict]) -> None:
        """Take in what became of drafts."""
        with self._lock:
            self.totals.drafted += sum(verdict.drafted for verdict in verdicts)
            self.totals.accepted += sum(verdict.accepted for verdict in verdicts)

    # -- what is shown -----------------------------------------------------------------------

    def view(self, status: EngineStatus, now: float) -> dict[str, Any]:
        """Return speed, latencies, counts and the history that ends ``now``."""
        with self._lock:
            self._second(now).saw(status)
            seconds, steps = list(self._seconds), list(self._steps)
            first_tokens = list(self._first_tokens)
            since_start, slow = self.totals.view(now), self.totals.slowest(now)
        since = int(self.began)
        return {
            "tokens_per_s": rate(((s.at, s.decoded) for s in seconds), int(now), since),
            "prefill_per_s": rate(((s.at, s.prefilled) for s in seconds), int(now), since),
            "ttft_s": quantiles(recent(first_tokens, now)),
            "itl_s": quantiles(recent(steps, now)),
            "since_start": since_start,
            "slow": slow,
            "history": history(seconds, int(now)),
        }

    def _second(self, now: float) -> Second:
        """Return the present second; under the lock."""
        at = int(now)
        if not self._seconds or self._seconds[-1].at < at:
            self._seconds.append(Second(at))
        return self._seconds[-1]


def recent(values: Iterable[Timed], now: float) -> list[Timed]:
    """Return those that still count."""
    return [value for value in values if now - value[0] <= RECENT_S]


def rate(amounts: Iterable[tuple[int, int]], now: int, since: int) -> float:
    """Return the amount per second of the last whole seconds.

    Args:
        amounts: Amounts by second.
        now: The present second, which is not over and does not count.
        since: The second in which counting began.
    """
    length = max(min(RATE_S, now - since), 1)
    return sum(amount for at, amount in amounts if now - length <= at < now) / length


def quantiles(values: Sequence[Timed]) -> dict[str, float | int]:
    """Return how many tokens there were and, if any, the nearest-rank percentiles."""
    total = sum(weight for _, _, weight in values)
    found: dict[str, float | int] = {"count": total}
    ordered = sorted((value, weight) for _, value, weight in values)
    for percent in QUANTILES if ordered else ():
        passed = 0
        for value, weight in ordered:
            passed += weight
            if passed * 100 >= percent * total:
                found[f"p{percent}"] = value
                break
    return found


def history(seconds: Sequence[Second], now: int) -> dict[str, list[int | None]]:
    """Return one value per second, the present one last.

    Where nobody looked and no iteration ended, nothing was generated, and gauges are unknown.
    """
    known = {second.at: second for second in seconds}
    line = [known.get(at) for at in range(now - HISTORY_S + 1, now + 1)]
    return {
        "decoded": [second.decoded if second else 0 for second in line],
        "prefilled": [second.prefilled if second else 0 for second in line],
        "running": [second.running if second else None for second in line],
        "waiting": [second.waiting if second else None for second in line],
        "used_blocks": [second.used_blocks if second else None for second in line],
    }
