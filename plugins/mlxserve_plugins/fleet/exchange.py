"""One exchange with a client: its request as far as the front reads it, and the answer to it."""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import msgspec
from attrs import define, frozen

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.fleet.shapes import OLLAMA, body_of, event_of
from mlxserve_plugins.surface.transport import ClientLeftError

Headers: TypeAlias = list[tuple[bytes, bytes]]
MARK: Final = b"\xef\xbb\xbf"
MODEL_HEADER: Final = "x-mlxserve-model"
STREAM: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
"""Headers that are between two neighbours only."""


class Head(msgspec.Struct):
    """What the front reads of a body."""

    model: str | None = None
    stream: bool | None = None


@frozen(kw_only=True)
class Ask:
    """A request.

    Attributes:
        method: In capitals.
        path: Without the query.
        query: As it came.
        headers: As they came.
        body: All of it.
        model: The name in it, if there is one.
        streams: Whether it asks for server-sent events.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    model: str | None
    streams: bool

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path + (f"?{self.query.decode('latin-1')}" if self.query else "")

    def renamed(self, name: str) -> bytes:
        """Return the body with another name of the model."""
        whole = msgspec.json.decode(self.body.removeprefix(MARK))
        return msgspec.json.encode({**whole, "model": name})


async def read_ask(scope: Any, receive: Any, largest: int) -> Ask:
    """Read a request.

    Raises:
        RequestError: It is too large, or no JSON that names a model.
        ClientLeftError: Nobody waits for an answer.
    """
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > largest:
            raise RequestError(
                status=413,
                message="the request body is larger than this server accepts",
                code="request_too_large",
            )
    headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
    body, path = b"".join(parts), scope["path"]
    head = _head(body, headers.get("content-type", ""))
    named = parse_qs(scope["query_string"].decode("latin-1")).get("model", [None])[0]
    return Ask(
        method=scope["method"],
        path=path,
        query=scope["query_string"],
        headers=list(scope["headers"]),
        body=body,
        model=head.model or headers.get(MODEL_HEADER) or named,
        streams=head.stream is True and not path.startswith(OLLAMA),
    )


def _head(body: bytes, content_type: str) -> Head:
    if not body or content_type.startswith(("multipart/", "application/octet-stream")):
        return Head()
    try:
        return msgspec.json.decode(body.removeprefix(MARK), type=Head)
    except msgspec.ValidationError as error:
        raise RequestError(status=400, message=f"the body is wrong: {error}") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RequestError(status=400, message=f"the body is no JSON: {error}") from error


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers that are meant for who asked, or for who answers."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in HOP | named]


@define(eq=False)
class Reply:
    """Answers an exchange, in a stream's form once a comment was sent.

    Attributes:
        send: Where to.
        path: What was asked, which says how errors look.
        begun: Whether status and headers are sent.
        streaming: Whether what comes is server-sent events.
    """

    send: Any
    path: str
    begun: bool = False
    streaming: bool = False

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.begun = True
        found = dict(headers).get(b"content-type", b"")
        self.streaming = found.startswith(b"text/event-stream")
        message = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send(message)

    async def part(self, data: bytes) -> None:
        """Send a part of the body; an empty one would end it with some servers."""
        if data:
            await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the body."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def comment(self, text: str) -> None:
        """Send a comment of a stream, which clients pass over."""
        if not self.begun:
            await self.start(200, STREAM)
        await self.part(f": {text}\n\n".encode())

    async def whole(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a body that is there already."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.part(body)
        await self.end()

    async def fail(self, error: RequestError) -> None:
        """Tell of an error, in the shape of the surface, whatever was sent before.

        A body that has begun and is no stream stays unfinished: the client sees it break off.
        """
        body = body_of(self.path, error)
        if not self.begun:
            more = [(name.lower().encode(), text.encode()) for name, text in error.headers.items()]
            headers = [(b"content-type", b"application/json"), *more]
            await self.whole(error.status, body, headers)
        elif self.streaming:
            await self.part(event_of(self.path, body))
            await self.end()
