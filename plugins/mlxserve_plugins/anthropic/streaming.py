"""Server-sent events: the message's own, pings where there is silence, errors."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec
from attrs import define, field
from structlog.contextvars import get_contextvars

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.anthropic.answers import Ping
from mlxserve_plugins.anthropic.errors import error_body
from mlxserve_plugins.anthropic.jobs import Job
from mlxserve_plugins.anthropic.replies import MessageReply
from mlxserve_plugins.surface.errors import logged
from mlxserve_plugins.surface.merging import Batch

PING: Final = Ping()

_encode = msgspec.json.Encoder().encode


async def server_sent(
    reply: MessageReply, batches: AsyncGenerator[Batch | None, None], *, path: str
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's bytes: what one batch added goes out together.

    A failure before the first yield is raised, so that it can still become a status; a later one
    is an ``error`` event, after which the stream ends.

    Args:
        reply: Shapes the events.
        batches: The engine's events, ``None`` where there is silence.
        path: For the log, should there be a bug.
    """
    writer = StreamWriter(reply)
    begun = False
    try:
        async with aclosing(batches):
            async for batch in batches:
                writer.take(batch)
                begun, ready = True, writer.ready()
                yield ready
    except RequestError as error:
        if not begun:
            raise
        yield writer.ready() + _failure(error, reply)
    except Exception as error:
        if not begun:
            raise
        yield writer.ready() + _failure(logged(error, path), reply)


@define(eq=False)
class StreamWriter:
    """Writes one stream. Its first event is the message's start, whatever came first."""

    reply: MessageReply
    _begun: bool = False
    _out: bytearray = field(factory=bytearray)

    def take(self, batch: Batch | None) -> None:
        """Write what a batch adds, or a ping.

        Raises:
            RequestError: The reply failed; what came before is ready.
        """
        if batch is None:
            self._write(PING)
            return
        for one in batch[1]:
            if one.prefilled is not None:
                self._write(PING)
                continue
            for event in self.reply.events(one):
                self._write(event)

    def ready(self) -> bytes:
        """Return what is to be sent, and forget it."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _write(self, event: msgspec.Struct) -> None:
        if not self._begun:
            self._begun = True
            self._out += sse(self.reply.opening())
        self._out += sse(event)


def request_id(job: Job) -> str:
    """Return what the log calls the HTTP request, or else the message."""
    return str(get_contextvars().get("request_id", job.request.id))


def sse(event: msgspec.Struct) -> bytes:
    """Return one server-sent event; its name is its type."""
    return b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), _encode(event))


def _failure(error: RequestError, reply: MessageReply) -> bytes:
    return sse(error_body(error.status, error.message, request_id(reply.job)))
