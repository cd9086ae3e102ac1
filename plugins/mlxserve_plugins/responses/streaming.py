"""Server-sent events: each with its name, as this API's clients read them."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import msgspec

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.responses.events import Event, kind_of
from mlxserve_plugins.responses.renaming import renamed
from mlxserve_plugins.responses.reply import Reply
from mlxserve_plugins.surface.errors import logged
from mlxserve_plugins.surface.merging import Batch

_encode = msgspec.json.Encoder().encode


async def server_sent(
    reply: Reply, batches: AsyncGenerator[Batch | None, None], *, comments: bool, path: str
) -> AsyncGenerator[bytes, None]:
    """Yield a stream's bytes: what one batch added goes out together.

    A failure before the first yield is raised, so that it can still become a status; a later one
    is a ``response.failed``, after which the stream ends.

    Args:
        reply: Writes the events.
        batches: The engine's events, ``None`` where there is silence.
        comments: Whether progress within the prompt is told in comments.
        path: For the log, should there be a bug.
    """
    stream = Stream(reply, comments)
    begun = False
    try:
        async with aclosing(batches):
            async for batch in batches:
                stream.take(batch)
                begun, ready = True, stream.ready()
                yield ready
    except RequestError as error:
        if not begun:
            raise
        yield stream.fail(renamed(error))
    except Exception as error:
        if not begun:
            raise
        yield stream.fail(logged(error, path))


class Stream:
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
            RequestError: The reply failed; what came before it is ready.
        """
        if not self._open:
            self._open = True
            self._out += written(self.reply.opening())
        elif batch is None and self.comments:
            self._out += written(self.reply.waiting())
        if batch is None:
            self._comment()
            return
        for one in batch[1]:
            if one.prefilled is None:
                self._out += written(self.reply.read(one))
                continue
            total = len(self.reply.job.request.prompt)
            self._progress = f" prefilled {one.prefilled}/{total}"
            self._comment()

    def fail(self, error: RequestError) -> bytes:
        """Return the end of a stream that failed."""
        return self.ready() + written(self.reply.failing(error))

    def ready(self) -> bytes:
        """Return what is to be sent, and forget it."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _comment(self) -> None:
        if self.comments:
            self._out += f": keepalive{self._progress}\n\n".encode()


def written(events: Iterable[Event]) -> bytes:
    """Return server-sent events."""
    return b"".join(
        b"event: " + kind_of(one).encode() + b"\ndata: " + _encode(one) + b"\n\n" for one in events
    )
