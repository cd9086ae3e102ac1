"""Server-sent events: chunks, keepalive comments, usage, errors, the end."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.errors import error_body
from mlxserve_plugins.openai.replies import Reply
from mlxserve_plugins.surface.errors import logged
from mlxserve_plugins.surface.merging import Batch

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


async def server_sent(
    reply: Reply, batches: AsyncGenerator[Batch | None, None], *, comments: bool, path: str
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's bytes: what one batch added goes out together.

    A failure before the first yield is raised, so that it can still become a status; a later one
    is an event with an ``error``, after which the stream ends.

    Args:
        reply: Shapes the chunks.
        batches: The engine's events, ``None`` where there is silence.
        comments: Whether silence and progress are told; else they yield nothing to send.
        path: For the log, should there be a bug.
    """
    writer = StreamWriter(reply, comments)
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
        yield writer.ready() + event(error_body(error))
    except Exception as error:
        if not begun:
            raise
        yield writer.ready() + event(error_body(logged(error, path)))
    else:
        yield event(reply.closing()) + DONE if reply.job.include_usage else DONE


class StreamWriter:
    """Writes one stream; remembers how far its prefill has come."""

    def __init__(self, reply: Reply, comments: bool) -> None:
        self.reply = reply
        self.comments = comments
        self._open = False
        self._progress = ""
        self._out = bytearray()

    def take(self, batch: Batch | None) -> None:
        """Write what a batch adds, or a sign of life.

        Raises:
            RequestError: A choice failed; what came before it is ready.
        """
        if batch is None:
            self._comment()
            return
        source, events = batch
        for one in events:
            if one.prefilled is not None:
                total = len(self.reply.job.requests[source].prompt)
                self._progress = f" prefilled {one.prefilled}/{total}"
                self._comment()
                continue
            self._begin()
            for chunk in self.reply.chunks(source, one):
                self._out += event(chunk)

    def ready(self) -> bytes:
        """Return what is to be sent, and forget it."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _begin(self) -> None:
        if not self._open:
            self._open, self._progress = True, ""
            for chunk in self.reply.opening():
                self._out += event(chunk)

    def _comment(self) -> None:
        if self.comments:
            self._out += f": keepalive{self._progress}\n\n".encode()


def event(data: msgspec.Struct) -> bytes:
    """Return one server-sent event."""
    return b"data: " + _encode(data) + b"\n\n"
