"""The thread that keeps the index like the server: what others store, and what gives way there.

The server tells it which names under the layout's prefix have changed (client tracking in
broadcast mode), then it asks whether they exist. So a look-up costs no round trip, a prompt that
nobody knows waits for nothing, and a server that is gone holds nothing.
"""

import time
from collections.abc import Iterable, Iterator
from threading import Event, Thread
from typing import Any, Final

from mlxserve_valkey_tier.breaker import Breaker
from mlxserve_valkey_tier.index import Index
from mlxserve_valkey_tier.value import Values
from mlxserve_valkey_tier.wire import Wire

CHANNEL: Final = "__redis__:invalidate"
GLANCE_S: Final = 0.2
"""How long it takes at most to see that another thread has given the server up."""

HEARTBEAT_S: Final = 1.0
GOOD_S: Final = 30.0
"""After so long without a failure the next one is a first one."""

PAGE: Final = 1000
MESSAGE_PARTS: Final = 3


class Follower:
    """Probes, follows and probes again.

    Args:
        values: Know the names.
        index: Kept.
        breaker: Closed when the server is there.
        listener: Is told what changes.
        asker: Asks.
        seconds: Time for an answer.
    """

    def __init__(
        self,
        values: Values,
        index: Index,
        breaker: Breaker,
        listener: Wire,
        asker: Wire,
        seconds: float,
    ) -> None:
        self._values = values
        self._index = index
        self._breaker = breaker
        self._listener = listener
        self._asker = asker
        self._seconds = seconds
        self._stop = Event()
        self._thread = Thread(target=self._main, name="valkey-follower", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End; waits for ``seconds`` at most."""
        self._stop.set()
        self._thread.join(seconds)

    def _main(self) -> None:
        while not self._stop.wait(self._breaker.pause):
            epoch = self._breaker.epoch
            try:
                self._follow(epoch)
            except Exception as error:
                reason = "slow" if self._asker.expired or self._listener.expired else "gone"
                self._breaker.trip(epoch, reason, error)
        self._listener.close()
        self._asker.close()

    def _follow(self, epoch: int) -> None:
        self._index.clear()
        self._track(epoch)
        self._breaker.recover(epoch)
        since = asked = time.monotonic()
        pages = self._pages(epoch)
        reading = True
        while not self._stop.is_set() and self._breaker.epoch == epoch:
            if reading:
                reading = next(pages, False)
            news = self._news(epoch, 0.0 if reading else GLANCE_S)
            now = time.monotonic()
            if news or now - asked >= HEARTBEAT_S:
                self._look(news, epoch)
                asked = now
            if now - since >= GOOD_S:
                self._breaker.succeeded()
                since = now

    def _track(self, epoch: int) -> None:
        listener, asker = self._listener, self._asker
        with listener.within(self._seconds, epoch):
            number = listener.ask_one("CLIENT", "ID")
            listener.ask_one("SUBSCRIBE", CHANNEL)
        prefix = self._values.prefix
        with asker.within(self._seconds, epoch):
            asker.ask_one("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", prefix)

    def _pages(self, epoch: int) -> Iterator[bool]:
        """Read what was there before, a page at each step; yields ``True``."""
        cursor = b"0"
        while True:
            with self._asker.within(self._seconds, epoch):
                cursor, names = self._asker.ask_one(
                    "SCAN", cursor, "MATCH", f"{self._values.prefix}*", "COUNT", PAGE
                )
            self._index.add(self._hashes(names))
            if cursor == b"0":
                return
            yield True

    def _news(self, epoch: int, seconds: float) -> list[bytes]:
        """Return hashes of blocks that came or went, waiting ``seconds`` for the first."""
        found: dict[bytes, None] = {}
        with self._listener.within(seconds + self._seconds, epoch):
            message = self._listener.heard(seconds)
            while message is not None:
                found.update(dict.fromkeys(self._told(message)))
                message = self._listener.heard(0.0) if len(found) < PAGE else None
        return list(found)

    def _told(self, message: Any) -> Iterable[bytes]:
        """Return the hashes in a message; one without names says that all is gone."""
        if len(message) != MESSAGE_PARTS or message[0] != b"message":
            return ()
        if message[2] is None:
            self._index.clear()
            return ()
        return self._hashes(message[2])

    def _look(self, hashes: list[bytes], epoch: int) -> None:
        """Ask which of these are there; of none, whether the server is."""
        asker, name = self._asker, self._values.name
        with asker.within(self._seconds, epoch):
            if not hashes:
                asker.ask_one("PING")
                return
            there = list(asker.ask(*(("EXISTS", name(each)) for each in hashes)))
        pairs = list(zip(hashes, there, strict=True))
        self._index.add(each for each, count in pairs if count == 1)
        self._index.discard(each for each, count in pairs if count != 1)

    def _hashes(self, names: Iterable[bytes]) -> list[bytes]:
        found = (self._values.hash_in(name) for name in names)
        return [each for each in found if each is not None]
