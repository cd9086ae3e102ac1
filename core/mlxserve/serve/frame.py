"""What holds for every exchange, whichever route answers: HEAD, request ids, clients' odd forms."""

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

import structlog
from litestar import Litestar
from litestar.types import Message, Receive, Send
from structlog.contextvars import bound_contextvars, get_contextvars

from mlxserve.door import Caller
from mlxserve.serve.errors import NOBODY, blamed
from mlxserve_hookspecs.serving import REPLY_HEADERS

log = structlog.get_logger("mlxserve.serve")

REQUEST_ID: Final = b"x-request-id"
READABLE: Final = re.compile(rb"[\x21-\x7e]{1,128}")
"""An id that may go into headers and logs as it is."""

MARK: Final = b"\xef\xbb\xbf"
BINARY: Final = (b"multipart/", b"application/octet-stream", b"audio/", b"image/")

LONGEST_PATH: Final = 64
"""Characters of a path that stand in the log: more may be anything."""


def present_endpoint() -> str:
    """Return method and path of the request in whose context this is called; else nothing."""
    facts = get_contextvars()
    return f"{facts['method']} {facts['path']}" if "method" in facts else ""


class FramedApp(Litestar):
    """The application in its frame.

    Litestar's middleware runs only where a route was found; this runs always.

    Attributes:
        owners: The plugins that routes may be of, by name.
    """

    owners: Mapping[str, Caller] = NOBODY

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, with HEAD answered as GET is, and an id on every response and log line."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        name = request_id(dict(reversed(list(scope["headers"]))))
        method, path = str(scope["method"]), origin_form(scope["path"])
        with bound_contextvars(request_id=name.decode(), method=method, path=path[:LONGEST_PATH]):
            seen, body, told = framed(name, path, scope, receive, send)
            try:
                await super().__call__(seen, body, told)
            except Exception as error:
                # The answer has begun: the server below breaks it off and logs the traceback.
                log.warning(
                    "a stream broke off", **blamed(seen, error.__cause__ or error, self.owners)
                )
                raise


def framed(
    name: bytes, path: str, scope: Any, receive: Receive, send: Send
) -> tuple[Any, Receive, Send]:
    """Return what the routes are to see of an exchange.

    Args:
        name: The request's id.
        path: Its path.
        scope: The exchange as the server sees it.
        receive: Its body.
        send: Its answer.
    """
    headers = dict(reversed(list(scope["headers"])))
    bodiless = scope["method"] == "HEAD"
    state = {**scope.get("state", {}), REPLY_HEADERS: {}}
    seen: Any = {**scope, "path": path, "state": state}
    if path != scope["path"]:
        seen["raw_path"] = path.encode()
    if bodiless:
        # The server below still sees HEAD in its own scope, and sends no body.
        seen["method"] = "GET"
    told = Told(name, state[REPLY_HEADERS], bodiless, send)
    binary = headers.get(b"content-type", b"").lower().startswith(BINARY)
    return seen, receive if binary else Unmarked(receive), told


class Told:
    """Sends a response with the headers that every response has.

    Args:
        name: The request's id.
        added: Headers that routes add, by name.
        bodiless: Whether the body is left out.
        send: Where to.
    """

    def __init__(self, name: bytes, added: Mapping[str, str], bodiless: bool, send: Send) -> None:
        self._name = name
        self._added = added
        self._bodiless = bodiless
        self._send = send
        self._ended = False

    async def __call__(self, message: Message) -> None:
        """Pass ``message`` on."""
        if message["type"] == "http.response.start":
            headers = [_allowing_head(*pair) for pair in message["headers"]]
            if all(name.lower() != REQUEST_ID for name, _ in headers):
                headers.append((REQUEST_ID, self._name))
            headers += [(n.lower().encode(), v.encode()) for n, v in self._added.items()]
            await self._send({**message, "headers": headers})
        elif not self._bodiless:
            await self._send(message)
        elif not self._ended:
            self._ended = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Unmarked:
    """Receives a body without the byte order mark that some clients begin it with."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._begun = False

    async def __call__(self) -> Any:
        """Return the next message."""
        message: Any = await self._receive()
        if self._begun or message["type"] != "http.request":
            return message
        self._begun = True
        body, more = message.get("body", b""), message.get("more_body", False)
        while more and len(body) < len(MARK) and MARK.startswith(body):
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return {**message, "body": body.removeprefix(MARK), "more_body": more}


def request_id(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the client's id for its request, or a new one where it has none that can be told."""
    named = headers.get(REQUEST_ID, b"")
    return named if READABLE.fullmatch(named) else f"req_{secrets.token_hex(12)}".encode()


def origin_form(path: str) -> str:
    """Return a target's path; one in absolute form, as proxies send it, names the host too."""
    scheme, separator, rest = path.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return f"/{rest.partition('/')[2]}"
    return path


def _allowing_head(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() == b"allow" and b"GET" in value and b"HEAD" not in value:
        return name, value + b", HEAD"
    return name, value
