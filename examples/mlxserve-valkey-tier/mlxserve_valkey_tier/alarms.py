"""One thread that calls back when time is up."""

import heapq
import time
from collections.abc import Callable
from itertools import count
from threading import Condition, Thread


class Alarms:
    """Calls back once, unless cancelled before. ``set`` and ``cancel`` take any thread.

    What is called must be quick and must not raise; it may still be called while ``cancel`` runs.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._due: list[tuple[float, int]] = []
        self._rings: dict[int, Callable[[], None]] = {}
        self._numbers = count()
        self._stopped = False
        self._thread = Thread(target=self._main, name="valkey-alarms", daemon=True)
        self._thread.start()

    def set(self, seconds: float, ring: Callable[[], None]) -> int:
        """Have ``ring`` called in ``seconds``; return the number to cancel it by."""
        with self._changed:
            number = next(self._numbers)
            self._rings[number] = ring
            heapq.heappush(self._due, (time.monotonic() + seconds, number))
            if self._due[0][1] == number:
                self._changed.notify_all()
            return number

    def cancel(self, number: int) -> None:
        """Forget an alarm."""
        with self._changed:
            self._rings.pop(number, None)

    def stop(self) -> None:
        """End; nothing is called any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _main(self) -> None:
        while (ring := self._next()) is not None:
            ring()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                while self._due and (self._due[0][0] <= now or self._due[0][1] not in self._rings):
                    ring = self._rings.pop(heapq.heappop(self._due)[1], None)
                    if ring is not None:
                        return ring
                self._changed.wait(self._due[0][0] - now if self._due else None)
            return None
