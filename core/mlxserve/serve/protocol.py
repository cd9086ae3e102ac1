"""HTTP on one connection, as uvicorn speaks it, and with patience for half-closed ones."""

from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HALF_CLOSED_S: Final = 0.1
"""A client that ends its side this soon after a whole request has no more to say and waits for the
answer; one that does so later has given up. The network shows both alike."""

_Base: Any = AutoHTTPProtocol


class HttpProtocol(_Base):  # type: ignore[misc]
    """Answers a request whose client has closed its sending side right after it."""

    _heard: float = 0.0

    def data_received(self, data: bytes) -> None:
        """Take data, and note when."""
        self._heard = self.loop.time()
        super().data_received(data)

    def eof_received(self) -> bool:
        """Return whether the connection stays open: until the answer that is due was sent."""
        due = self._last_due()
        if due is None or self.loop.time() - self._heard > HALF_CLOSED_S:
            return False
        due.keep_alive = False
        return True

    def _last_due(self) -> Any:
        """Return the last exchange whose request is whole and whose answer is not."""
        waiting = getattr(self, "pipeline", ())
        cycle = waiting[0][0] if waiting else self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None
        return cycle
