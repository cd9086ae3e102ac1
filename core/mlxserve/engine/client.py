"""The engine as seen from the event loop: submit, iterate, cancel by closing."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn

from attrs import define, evolve, field, frozen

from mlxserve.engine.refusals import NOT_READY, SHUTTING_DOWN, duplicate, queue_full
from mlxserve.inbox import Cancel, Inbox, Submit
from mlxserve_hookspecs import (
    EngineStatus,
    Finish,
    GenerationEvent,
    GenerationRequest,
    ModelCard,
    RequestError,
    TextCodec,
    Usage,
)


@frozen
class Loaded:
    """What is known once the model is there."""

    card: ModelCard
    text: TextCodec


@define(eq=False)
class Client:
    """Implements ``EngineClient``.

    Attributes:
        inbox: The engine's.
        max_waiting: Most requests in the queue.
        max_running: Rows that may be live: as many submissions never wait for long.
        get_status: Returns the engine's last published status.
        tell_refused: Told the status and code of each refusal, on the thread that asked.
    """

    inbox: Inbox
    max_waiting: int
    max_running: int
    get_status: Callable[[], EngineStatus]
    tell_refused: Callable[[int, str], None] = lambda _status, _code: None
    loaded: Loaded | None = None
    closed: RequestError | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _streams: dict[str, "_Stream"] = field(factory=dict)

    @property
    def card(self) -> ModelCard:
        """The model that is served."""
        return self._ready().card

    @property
    def text(self) -> TextCodec:
        """The model's tokenizer."""
        return self._ready().text

    @property
    def status(self) -> EngineStatus:
        """The engine now; any thread."""
        status = self.get_status()
        return evolve(status, waiting=status.waiting + len(self.inbox))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which requests are iterated."""
        self._loop = loop

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[Sequence[GenerationEvent]]:
        """Submit ``request`` and yield its events; closing early cancels it."""
        self._admit()
        if request.id in self._streams:
            self._refuse(duplicate(request.id))
        stream = self._streams[request.id] = _Stream(request.choices)
        seed = request.sampling.seed
        chosen = secrets.randbits(63) if seed is None else seed
        self.inbox.put(Submit(request, time.monotonic(), chosen))
        try:
            while stream.open:
                yield await stream.take()
        finally:
            del self._streams[request.id]
            if stream.open:
                self.inbox.put(Cancel(request.id))

    def deliver(self, events: Sequence[GenerationEvent]) -> None:
        """Hand over an iteration's events; engine thread, does not wait."""
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._dispatch, events)

    def abort(self, error: RequestError) -> None:
        """End every stream with ``error`` and let no request in; any thread.

        For an engine that cannot do so itself any more.
        """
        self.closed = error
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abort, error)

    def _abort(self, error: RequestError) -> None:
        nothing = Usage(prompt_tokens=0, completion_tokens=0)
        end = Finish(reason="error", usage=nothing, error=error)
        for request_id, stream in self._streams.items():
            stream.put(
                [
                    GenerationEvent(request_id=request_id, choice=choice, finish=end)
                    for choice in range(stream.unfinished)
                ]
            )

    def _dispatch(self, events: Sequence[GenerationEvent]) -> None:
        mine: dict[str, list[GenerationEvent]] = defaultdict(list)
        for event in events:
            mine[event.request_id].append(event)
        for request_id, some in mine.items():
            if stream := self._streams.get(request_id):
                stream.put(some)

    def _ready(self) -> Loaded:
        if self.closed is not None:
            self._refuse(self.closed)
        if self.loaded is None:
            self._refuse(NOT_READY)
        return self.loaded

    def _admit(self) -> None:
        self._ready()
        status = self.status
        if status.draining:
            self._refuse(SHUTTING_DOWN)
        free = max(self.max_running - status.running, 0)
        if status.waiting >= self.max_waiting + free:
            self._refuse(queue_full(status.waiting))

    def _refuse(self, error: RequestError) -> NoReturn:
        self.tell_refused(error.status, error.code or "")
        raise evolve(error, told=True)  # a fresh one: a traceback grows with each raise


@define(eq=False)
class _Stream:
    """The events of one request that its reader has not taken yet.

    Events of a slow reader are merged by the reader's next turn: what waits is bounded by the
    request's own ``max_tokens``, and nobody else waits for it.
    """

    unfinished: int
    _events: list[GenerationEvent] = field(factory=list)
    _ready: asyncio.Event = field(factory=asyncio.Event)
    open: bool = True

    def put(self, events: Sequence[GenerationEvent]) -> None:
        self._events += events
        self._ready.set()

    async def take(self) -> Sequence[GenerationEvent]:
        await self._ready.wait()
        self._ready.clear()
        events, self._events = self._events, []
        self.unfinished -= sum(event.finish is not None for event in events)
        self.open = self.unfinished > 0
        return events
