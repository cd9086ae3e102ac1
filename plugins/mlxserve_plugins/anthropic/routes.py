"""The paths, what they take and what they answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from attrs import define, field
from litestar import Request, Response, Router, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body

from mlxserve_hookspecs import Credentials, RequestError, Services
from mlxserve_plugins.anthropic.answers import ErrorBody, Message, TokenCount
from mlxserve_plugins.anthropic.bodies import MessagesBody, PromptBody
from mlxserve_plugins.anthropic.fields import MESSAGES
from mlxserve_plugins.anthropic.jobs import Job, Rules, message_job, prompt_of
from mlxserve_plugins.anthropic.replies import MessageReply
from mlxserve_plugins.anthropic.streaming import request_id, server_sent
from mlxserve_plugins.guarding import setting
from mlxserve_plugins.surface.merging import Batch, Events, merge
from mlxserve_plugins.surface.notes import Desk, Notes
from mlxserve_plugins.surface.transport import (
    ClientLeftError,
    EventStream,
    JsonBody,
    notes_of,
    while_connected,
)
from mlxserve_plugins.tools.ignored import IgnoredTools

AnyRequest = Request[Any, Any, State]
AnyConnection = ASGIConnection[Any, Any, Any, State]

HEADERS_AFTER = 1.0
"""Seconds that a stream waits for its first event before it sends headers: a refusal that comes
sooner is a status and not an event."""

CLIENT_LEFT = 499
"""A status that nobody sees: the connection is closed."""

KEEPALIVE = 15.0
"""Seconds of silence after which a stream sends a ping, where no option says otherwise."""

ERRORS = {
    status: ResponseSpec(ErrorBody, description=what)
    for status, what in (
        (400, "the request is wrong; the message names the field"),
        (401, "no or a wrong key"),
        (404, "the model is not served here"),
        (413, "the body is too large"),
        (429, "too many requests; Retry-After says when to come back"),
        (500, "the server failed"),
        (503, "the server cannot serve now; Retry-After says when to come back"),
    )
}


@define(eq=False)
class Api:
    """The endpoints' work, apart from their paths."""

    services: Services
    rules: Rules
    ignored: IgnoredTools = field(factory=IgnoredTools)
    desk: Desk = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the desk where notes are filed."""
        mode = setting(self.services, "server", "unknown_fields", "warn")
        self.desk = Desk(MESSAGES.surface, self.services.tell_adjusted, mode)

    @property
    def keepalive(self) -> float:
        """Seconds of silence after which a stream sends a ping; 0 sends none."""
        return float(setting(self.services, "openai", "sse_keepalive_s", KEEPALIVE))

    def authenticate(self, connection: AnyConnection) -> None:
        """Find out who asks, before anything else of the request is looked at."""
        client = connection.client
        credentials = Credentials(
            headers=dict(connection.headers.items()),
            path=connection.url.path,
            client=client.host if client else "",
        )
        connection.state.tenant = self.services.admission.authenticate(credentials).tenant

    async def message(self, body: MessagesBody, request: AnyRequest) -> Response[Any]:
        """Answer a request for a message."""
        notes = self._noted(request)
        tenant = request.state.tenant
        job = await message_job(body, self.services.engine, self.rules, tenant, notes)
        self.ignored.tell(job.tools, job.text.markup, request.scope["state"])
        self._file(request, notes)
        reply = MessageReply(job, self.services.make_parser)
        try:
            answer = await (self._stream if job.stream else self._gather)(reply, request)
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        answer.headers["request-id"] = request_id(job)
        return answer

    async def count(self, body: PromptBody, request: AnyRequest) -> TokenCount:
        """Count a prompt's tokens."""
        notes = self._noted(request)
        prompt = await prompt_of(body, self.services.engine, self.rules, notes)
        self._file(request, notes)
        return TokenCount(len(prompt.tokens))

    def _noted(self, request: AnyRequest) -> Notes:
        """Return what was noted of a body so far, if that is to be let through."""
        notes = notes_of(request)
        self.desk.check_unknown(notes.taken)
        return notes

    def _file(self, request: AnyRequest, notes: Notes) -> None:
        """Log and count what a request is served without."""
        peer = request.client.host if request.client else ""
        self.desk.file(notes.taken, request.state.tenant or peer)

    async def _stream(self, reply: MessageReply, request: AnyRequest) -> Response[Any]:
        keepalive = self.keepalive
        patience = min(HEADERS_AFTER, keepalive) if keepalive else HEADERS_AFTER
        batches = merge([self._start(reply.job)], first_tick=patience, tick=keepalive or None)
        events = server_sent(reply, batches, path=request.url.path)
        return EventStream(await while_connected(request.receive, _first(events)), events)

    async def _gather(self, reply: MessageReply, request: AnyRequest) -> Response[Any]:
        async def gather() -> Message:
            async with aclosing(merge([self._start(reply.job)])) as batches:
                await _keep(reply, batches)
            return reply.whole()

        return Response(await while_connected(request.receive, gather()))

    def _start(self, job: Job) -> Callable[[], AsyncIterator[Events]]:
        def start() -> AsyncIterator[Events]:
            self.services.admission.admit(job.request)
            return self.services.engine.generate(job.request)

        return start


def make_routes(services: Services, *, omit: Sequence[str]) -> list[Router]:
    """Return the API's routes.

    Args:
        services: The engine, and who may use it.
        omit: Beginnings of lines of the system text that are left out of prompts.
    """
    api = Api(services, Rules(omit=omit))
    return [
        Router(
            path="/",
            route_handlers=[_messages(api), _count_tokens(api)],
            guards=[_guard(api)],
            tags=["Anthropic"],
        )
    ]


def _guard(api: Api) -> Callable[[AnyConnection, Any], Coroutine[Any, Any, None]]:
    # A function, not a method: Litestar makes deep copies of guards, and with them of their self.
    async def authenticate(connection: AnyConnection, _: Any) -> None:
        api.authenticate(connection)

    return authenticate


def _messages(api: Api) -> HTTPRouteHandler:
    @post("/v1/messages", dto=JsonBody[MessagesBody], status_code=200, responses=ERRORS)
    async def messages(
        request: AnyRequest, data: Annotated[MessagesBody | None, Body()] = None
    ) -> Response[Message]:
        """Continue a conversation. With ``stream`` the answer is server-sent events."""
        return await api.message(_present(data), request)

    return messages


def _count_tokens(api: Api) -> HTTPRouteHandler:
    @post(
        "/v1/messages/count_tokens",
        dto=JsonBody[PromptBody],
        status_code=200,
        responses=ERRORS,
    )
    async def count_tokens(
        request: AnyRequest, data: Annotated[PromptBody | None, Body()] = None
    ) -> TokenCount:
        """Count the tokens of the prompt that such a request would have."""
        return await api.count(_present(data), request)

    return count_tokens


async def _keep(reply: MessageReply, batches: AsyncGenerator[Batch | None, None]) -> None:
    async for batch in batches:
        for event in batch[1] if batch else ():
            if event.prefilled is None:
                reply.add(event)


def _present(data: Any) -> Any:
    if data is None:
        message = "the request body is empty: send a JSON object"
        raise RequestError(status=400, message=message, code="invalid_json")
    return data


def _first(events: AsyncGenerator[bytes, None]) -> Coroutine[Any, Any, bytes]:
    async def first() -> bytes:
        return await anext(events)

    return first()
