"""What was let in and has not ended."""

import threading
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import Finish, GenerationRequest

PATIENCE: Final = 60.0
"""Seconds for which a request that nobody waits for any more may still be heard of."""


@define(eq=False)
class Visit:
    """One HTTP request, which may bring several requests to the engine.

    Attributes:
        admitted: Whether it was let in.
    """

    admitted: bool = False


@define(eq=False)
class Entry:
    """A request in flight.

    Attributes:
        request: The request.
        visit: What brought it.
        charge: Tokens that its tenant was charged in advance.
        since: Monotonic seconds at which it was let in.
        started: Whether its first token has come: it has a row.
        spent: Tokens that its finished choices took.
        unfinished: Choices to come.
    """

    request: GenerationRequest
    visit: Visit
    charge: int = 0
    since: float = 0.0
    started: bool = False
    spent: int = 0
    unfinished: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.unfinished = self.request.choices


@define(eq=False)
class Ledger:
    """The requests in flight. Written on the event loop and on the engine thread.

    A request ends when its last choice does, or when its HTTP request ends: the engine may refuse
    what was let in, and a client may leave before the engine has heard of it.
    """

    _live: dict[str, Entry] = field(factory=dict)
    _gone: dict[str, tuple[Entry, float]] = field(factory=dict)
    _refunds: list[tuple[str, int]] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def entries(self) -> list[Entry]:
        """Return what is in flight, oldest first."""
        with self._lock:
            return list(self._live.values())

    def enter(self, entry: Entry) -> None:
        """Count a request."""
        with self._lock:
            self._live[entry.request.id] = entry

    def started(self, request_id: str) -> None:
        """Note that a request has a row."""
        with self._lock:
            if entry := self._live.get(request_id):
                entry.started = True

    def finished(self, request_id: str, finish: Finish) -> None:
        """Note the end of one choice."""
        with self._lock:
            entry = self._live.get(request_id) or self._gone.get(request_id, (None, 0.0))[0]
            if entry is None:
                return
            entry.spent += finish.usage.completion_tokens
            entry.unfinished -= 1
            if entry.unfinished <= 0:
                self._live.pop(request_id, None)
                self._gone.pop(request_id, None)
                self._settle(entry, entry.spent + finish.usage.prompt_tokens)

    def left(self, visit: Visit, now: float) -> None:
        """Count no more what a visit brought; what it took is settled when the engine tells."""
        with self._lock:
            for entry in [e for e in self._live.values() if e.visit is visit]:
                del self._live[entry.request.id]
                self._gone[entry.request.id] = (entry, now + PATIENCE)

    def take_refunds(self, now: float) -> Sequence[tuple[str, int]]:
        """Return tokens that were charged and not used since the last call, by tenant."""
        with self._lock:
            for entry, deadline in list(self._gone.values()):
                if now >= deadline:
                    del self._gone[entry.request.id]
                    self._settle(entry, 0)
            refunds, self._refunds = self._refunds, []
        return refunds

    def _settle(self, entry: Entry, used: int) -> None:
        if entry.charge > used:
            self._refunds.append((entry.request.tenant, entry.charge - used))
