"""Which HTTP request a hook is called for."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from mlxserve_plugins.admission.ledger import Visit

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

# A context variable belongs to the module by its nature; its values belong to the request's task.
_VISIT: Final[ContextVar[Visit | None]] = ContextVar("mlxserve_admission_visit", default=None)


def current_visit() -> Visit | None:
    """Return the HTTP request that is being answered; ``None`` outside of one."""
    return _VISIT.get()


def visiting(on_end: Callable[[Visit], None]) -> Callable[[AsgiApp], AsgiApp]:
    """Return an ASGI middleware that gives each HTTP request a visit.

    Args:
        on_end: Called with the visit when its answer is sent or its client has left, if it was
            let in.
    """

    def middleware(app: AsgiApp) -> AsgiApp:
        async def visited(scope: Any, receive: Any, send: Any) -> None:
            visit = Visit()
            token = _VISIT.set(visit)
            try:
                await app(scope, receive, send)
            finally:
                _VISIT.reset(token)
                if visit.admitted:
                    on_end(visit)

        return visited

    return middleware
