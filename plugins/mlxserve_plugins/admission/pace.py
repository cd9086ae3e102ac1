"""How long replies take and how long they are, learned from those that ended."""

from collections import deque
from math import ceil
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import Finish

UNMEASURED_S: Final = 1.0
UNMEASURED_REPLY: Final = 1024
"""Tokens that a reply is taken to have before replies have been measured."""

ENOUGH: Final = 16
"""Replies from which on their lengths are believed."""

NEARLY_ALL: Final = 0.95
MEMORY: Final = 256
WEIGHT: Final = 0.1
SHORTEST_S: Final = 1.0
LONGEST_S: Final = 300.0


@define(eq=False)
class Pace:
    """Written on the engine thread; each figure is replaced as a whole and read on any thread.

    Attributes:
        service: Seconds for which a reply holds its row, on a moving average.
        usual_reply: Tokens that nearly all replies (the 95th percentile) stay within.
    """

    service: float | None = None
    usual_reply: int = UNMEASURED_REPLY
    _lengths: deque[int] = field(factory=lambda: deque(maxlen=MEMORY))

    def learn(self, finish: Finish) -> None:
        """Take a reply that ended by itself into account."""
        if finish.reason not in ("stop", "length") or not finish.usage.completion_tokens:
            return
        took = max(finish.total_seconds - finish.queue_seconds, 0.0)
        before = took if self.service is None else self.service
        self.service = before + WEIGHT * (took - before)
        self._lengths.append(finish.usage.completion_tokens)
        if len(self._lengths) >= ENOUGH:
            self.usual_reply = percentile(list(self._lengths), NEARLY_ALL)

    def seconds(self, in_flight: int, rows: int, oldest: float) -> float:
        """Return how long it takes until a further request is likely to get in.

        With n busy rows, each taken for s seconds at a time, a request ends every s/n seconds;
        where all began together, none ends before the oldest has had its s seconds.

        Args:
            in_flight: Requests that run or wait.
            rows: How many can run.
            oldest: Seconds since the oldest of them came.
        """
        service = UNMEASURED_S if self.service is None else self.service
        busy = max(min(in_flight, rows), 1)
        ahead = max(in_flight - rows, 0) + 1
        wait = max(ahead * service / busy, service - oldest)
        return min(max(wait, SHORTEST_S), LONGEST_S)


def percentile(values: list[int], share: float) -> int:
    """Return the least of ``values`` that ``share`` of them do not exceed."""
    return sorted(values)[ceil(len(values) * share) - 1]
