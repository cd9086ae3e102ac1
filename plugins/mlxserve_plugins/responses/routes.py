"""The paths, what they take and what they answer."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from attrs import define, field
from litestar import Request, Response, Router, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body, Parameter

from mlxserve_hookspecs import Credentials, RequestError, Services
from mlxserve_plugins.guarding import setting
from mlxserve_plugins.openai.routes import CLIENT_LEFT, ERRORS, HEADERS_AFTER
from mlxserve_plugins.responses import ResponsesOptions
from mlxserve_plugins.responses.answers import DeletedResponse, ItemList, ResponseObject
from mlxserve_plugins.responses.bodies import ResponsesBody
from mlxserve_plugins.responses.jobs import Job, make_job
from mlxserve_plugins.responses.renaming import renamed
from mlxserve_plugins.responses.reply import Reply
from mlxserve_plugins.responses.store import MB, Store
from mlxserve_plugins.responses.streaming import server_sent
from mlxserve_plugins.surface.merging import Events, merge
from mlxserve_plugins.surface.notes import Desk
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
Name = Annotated[str, Parameter(description="A response's id")]

KEEPALIVE_S = 15.0
JSON = "application/json"


@define(eq=False)
class Api:
    """The endpoints' work, apart from their paths."""

    services: Services
    options: ResponsesOptions
    store: Store = field(init=False)
    ignored: IgnoredTools = field(factory=IgnoredTools)
    desk: Desk = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with nothing kept."""
        mode = setting(self.services, "server", "unknown_fields", "warn")
        self.desk = Desk(ResponsesBody.TABLE.surface, self.services.tell_adjusted, mode)
        self.store = Store(self.options.store_size, int(self.options.store_mb * MB))

    def authenticate(self, connection: AnyConnection) -> None:
        """Find out who asks, before anything else of the request is looked at."""
        client = connection.client
        credentials = Credentials(
            headers=dict(connection.headers.items()),
            path=connection.url.path,
            client=client.host if client else "",
        )
        connection.state.tenant = self.services.admission.authenticate(credentials).tenant

    async def create(self, body: ResponsesBody, request: AnyRequest) -> Response[Any]:
        """Answer a request for a response."""
        try:
            return await self._create(body, request)
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        except RequestError as error:
            raise renamed(error) from None

    async def _create(self, body: ResponsesBody, request: AnyRequest) -> Response[Any]:
        notes, tenant = notes_of(request), request.state.tenant
        self.desk.check_unknown(notes.taken)
        ignored = frozenset(self.options.ignored_tools)
        engine = self.services.engine
        job = await make_job(body, engine, tenant, self.store, ignored=ignored, notes=notes)
        self.ignored.tell(job.tools, job.text.markup, request.scope["state"])
        peer = request.client.host if request.client else ""
        self.desk.file(notes.taken, tenant or peer)
        reply = Reply(job, self.services.make_parser, self.store)
        if body.stream:
            return await self._stream(reply, request)
        return Response(await while_connected(request.receive, self._gather(reply)))

    async def _stream(self, reply: Reply, request: AnyRequest) -> EventStream:
        keepalive = self._keepalive()
        patience = min(HEADERS_AFTER, keepalive) if keepalive else HEADERS_AFTER
        batches = merge([self._start(reply.job)], first_tick=patience, tick=keepalive or None)
        events = server_sent(reply, batches, comments=keepalive > 0, path=request.url.path)
        return EventStream(await while_connected(request.receive, _first(events)), events)

    async def _gather(self, reply: Reply) -> ResponseObject:
        async with aclosing(merge([self._start(reply.job)])) as batches:
            async for batch in batches:
                for event in batch[1] if batch else ():
                    if event.prefilled is None:
                        reply.read(event)
        return reply.response

    def _start(self, job: Job) -> Callable[[], AsyncIterator[Events]]:
        def start() -> AsyncIterator[Events]:
            self.services.admission.admit(job.request)
            return self.services.engine.generate(job.request)

        return start

    def _keepalive(self) -> float:
        return float(setting(self.services, "openai", "sse_keepalive_s", KEEPALIVE_S))


def make_routes(services: Services, options: ResponsesOptions) -> list[Router]:
    """Return the API's routes.

    Args:
        services: The engine, and who may use it.
        options: What is kept, and what is overlooked.
    """
    api = Api(services, options)
    makers: list[Callable[[Api], HTTPRouteHandler]] = [_create, _get, _delete, _input_items]
    return [
        Router(
            path="/",
            route_handlers=[make(api) for make in makers],
            guards=[_guard(api)],
            tags=["Responses"],
        )
    ]


def _guard(api: Api) -> Callable[[AnyConnection, Any], Coroutine[Any, Any, None]]:
    # A function, not a method: Litestar makes deep copies of guards, and with them of their self.
    async def authenticate(connection: AnyConnection, _: Any) -> None:
        api.authenticate(connection)

    return authenticate


def _create(api: Api) -> HTTPRouteHandler:
    @post(
        ["/v1/responses", "/responses"],
        dto=JsonBody[ResponsesBody],
        status_code=200,
        responses=ERRORS,
    )
    async def create_response(
        request: AnyRequest, data: Annotated[ResponsesBody | None, Body()] = None
    ) -> Response[ResponseObject]:
        """Continue a conversation of items. With ``stream`` the answer is server-sent events."""
        if data is None:
            message = "the request body is empty: send a JSON object"
            raise RequestError(status=400, message=message, code="invalid_json")
        return await api.create(data, request)

    return create_response


def _get(api: Api) -> HTTPRouteHandler:
    @get("/v1/responses/{response_id:str}", responses=ERRORS)
    async def get_response(request: AnyRequest, response_id: Name) -> Response[bytes]:
        """Return a response that was kept."""
        if request.query_params.get("stream", "").lower() in ("true", "1"):
            message = "`stream` is not supported here: a kept response is whole"
            raise RequestError(status=400, message=message, param="stream")
        found = api.store.find(response_id, request.state.tenant)
        return Response(found.response, media_type=JSON)

    return get_response


def _delete(api: Api) -> HTTPRouteHandler:
    @delete("/v1/responses/{response_id:str}", status_code=200, responses=ERRORS)
    async def delete_response(request: AnyRequest, response_id: Name) -> DeletedResponse:
        """Forget a response."""
        api.store.delete(response_id, request.state.tenant)
        return DeletedResponse(response_id)

    return delete_response


def _input_items(api: Api) -> HTTPRouteHandler:
    @get("/v1/responses/{response_id:str}/input_items", responses=ERRORS)
    async def list_input_items(request: AnyRequest, response_id: Name) -> ItemList:
        """List the items that a response was asked with, the last one first."""
        found = api.store.find(response_id, request.state.tenant)
        items: list[dict[str, Any]] = msgspec.json.decode(found.items)[::-1]
        ends = [one.get("id") for one in (items[0], items[-1])] if items else [None, None]
        return ItemList(data=items, first_id=ends[0], last_id=ends[1], has_more=False)

    return list_input_items


def _first(events: Any) -> Coroutine[Any, Any, bytes]:
    async def first() -> bytes:
        found: bytes = await anext(events)
        return found

    return first()
