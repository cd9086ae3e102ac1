"""A name for each HTTP request: in the headers of any answer, and in its log lines."""

import re
import secrets
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

HEADER: Final = b"x-request-id"
GIVEN: Final = re.compile(rb"[!-~]{1,128}")
"""What a client may call its request: ASCII without spaces, as a header can hold it."""

LONGEST_PATH: Final = 64


def identified(app: ASGIApp) -> ASGIApp:
    """Return ``app`` with ``x-request-id`` in each answer: the client's own, or a new one."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        name = request_id(scope)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, name)]
            await send(message)

        with bound_contextvars(**_facts(scope, name)):
            await app(scope, receive, send_named)

    return answer


def request_id(scope: Scope) -> bytes:
    """Return what the client calls its request, if that is a name, or a name for it."""
    headers: Any = scope.get("headers", ())
    given = next((value for name, value in headers if name == HEADER), b"")
    return given if GIVEN.fullmatch(given) else f"req_{secrets.token_hex(12)}".encode()


def _facts(scope: Scope, name: bytes) -> dict[str, str]:
    path = str(scope.get("path", ""))[:LONGEST_PATH]
    return {"request_id": name.decode(), "method": str(scope.get("method", "")), "path": path}
