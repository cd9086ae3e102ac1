"""Why the engine takes no request, as its client is told."""

from typing import Final

from mlxserve_hookspecs import RequestError

NOT_READY: Final = RequestError(
    status=503, message="the model is still loading", code="not_ready", retry_after=2.0
)
SHUTTING_DOWN: Final = RequestError(
    status=503, message="the server is shutting down", code="shutting_down", retry_after=30.0
)
STOPPED: Final = RequestError(status=503, message="the engine has stopped", code="engine_stopped")

TURNOVER: Final = 8
"""Waiting requests that are taken to leave the queue in a second."""


def queue_full(waiting: int) -> RequestError:
    """Return the error of a request that finds ``waiting`` others in a full queue."""
    return RequestError(
        status=429,
        message=f"{waiting} requests are waiting already",
        code="queue_full",
        retry_after=1.0 + waiting / TURNOVER,
    )


def duplicate(request_id: str) -> RequestError:
    """Return the error of a request whose id is taken by one that runs."""
    message = f"a request {request_id!r} is running already"
    return RequestError(status=409, message=message, code="duplicate_request")
