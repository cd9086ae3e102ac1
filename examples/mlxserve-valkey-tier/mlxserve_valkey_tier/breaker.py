"""Whether the server is worth asking: a circuit breaker that waits longer after each failure."""

import random
from threading import Lock
from typing import Final

import structlog
from attrs import define, field

log = structlog.get_logger("mlxserve.valkey")

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
JITTER: Final = 0.2
"""Servers that lost one cache together do not come back together."""


@define(eq=False)
class Breaker:
    """Open at first. Its prober closes it, and whoever fails opens it. Any thread.

    Attributes:
        place: The server's address, for people.
        available: Whether the server is asked now.
        epoch: Rises each time it opens: connections of an earlier one are not used again.
        failures: Times it opened since the server last did what it was asked for in time.
        trips: Times it opened altogether.
    """

    place: str
    available: bool = False
    epoch: int = 0
    failures: int = 0
    trips: int = 0
    _lost: bool = False
    _lock: Lock = field(factory=Lock)

    @property
    def pause(self) -> float:
        """Seconds until the server should be tried again."""
        if not self.failures:
            return 0.0
        longest = min(FIRST_PAUSE_S * 2.0 ** (self.failures - 1), LONGEST_PAUSE_S)
        return longest * random.uniform(1 - JITTER, 1 + JITTER)

    def trip(self, epoch: int, reason: str, error: Exception | None = None) -> None:
        """Open, because of what failed in ``epoch``; of a failure only the first report counts."""
        with self._lock:
            if epoch != self.epoch:
                return
            self.epoch += 1
            self.failures += 1
            self.trips += 1
            self.available = False
            told, self._lost = self._lost, True
        if not told:
            said = str(error) if error else None
            log.warning("shared cache not used", server=self.place, reason=reason, error=said)

    def recover(self, epoch: int) -> None:
        """Close, unless something failed since ``epoch``."""
        with self._lock:
            if epoch != self.epoch:
                return
            self.available = True
            again, self._lost = self._lost, False
        log.info("shared cache used again" if again else "shared cache used", server=self.place)

    def succeeded(self) -> None:
        """Learn that the server did what it was asked for in time."""
        self.failures = 0
