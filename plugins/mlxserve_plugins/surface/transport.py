"""What the API needs of HTTP beyond Litestar's own: bodies, streams, clients that leave."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from litestar import Response
from litestar.connection import ASGIConnection
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.types import Receive, Scope, Send
from litestar.typing import FieldDefinition

from mlxserve_plugins.surface.decoding import read
from mlxserve_plugins.surface.notes import Notes

T = TypeVar("T")

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientLeftError(Exception):
    """The client closed its connection: nobody reads the answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns; cancel it when the client leaves.

    Raises:
        ClientLeftError: It did.
    """
    worker, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({worker, watch}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientLeftError
    finally:
        worker.cancel()
        watch.cancel()
        await asyncio.gather(worker, watch, return_exceptions=True)


class EventStream(Response[Any]):
    """A response of server-sent events; closes its events when it ends, in whatever way."""

    def __init__(self, head: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None, media_type="text/event-stream", headers=STREAM_HEADERS)
        self.head = head
        self.events = events

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        """Return the ASGI application that sends it."""
        return self._send

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await while_connected(receive, self._write(send))
        except ClientLeftError:
            return

    async def _write(self, send: Send) -> None:
        async with aclosing(self.events):
            headers = {"content-type": "text/event-stream; charset=utf-8", **self.headers}
            pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": pairs})
            await _send_part(send, self.head)
            async for part in self.events:
                await _send_part(send, part)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class JsonBody(AbstractDTO[T], Generic[T]):
    """Decodes a body as ``read`` does: errors name the field; the schema is the struct's own.

    What was noted is with the connection: ``notes_of``. An empty body never comes here: the
    handler's ``data`` is then its default.
    """

    def decode_bytes(self, value: bytes) -> T:
        """Return the body as the handler's struct."""
        found, self.asgi_connection.state.notes = read(value, self.model_type)
        return found

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Make nothing: there is no transfer model."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,  # noqa: ARG003
        handler_id: str,  # noqa: ARG003
        schema_creator: Any,
    ) -> Reference | Schema:
        """Return the struct's own schema."""
        found: Reference | Schema = schema_creator.for_field_definition(
            FieldDefinition.from_annotation(cls.model_type)
        )
        return found

    @classmethod
    def generate_field_definitions(
        cls,
        model_type: type[Any],  # noqa: ARG003
    ) -> "Any":
        """Return nothing: there is no transfer model."""
        return iter(list[DTOFieldDefinition]())

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        """Return false: there is no transfer model."""
        return False


def notes_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Notes:
    """Return what was noted while a connection's body was read."""
    found: Notes = connection.state.get("notes") or Notes()
    return found


async def _send_part(send: Send, part: bytes) -> None:
    # An empty part would end a chunked body with some servers.
    if part:
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
