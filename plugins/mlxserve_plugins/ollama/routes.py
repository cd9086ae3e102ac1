"""The paths, what they take and what they answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from attrs import define, field
from litestar import Response, Router, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body

from mlxserve_hookspecs import EngineClient, RequestError, Services
from mlxserve_plugins.ollama.bodies import (
    ChatBody,
    EmbedBody,
    EmbeddingsBody,
    GenerateBody,
    ShowBody,
)
from mlxserve_plugins.ollama.embedding import Embedding
from mlxserve_plugins.ollama.fields import TABLES
from mlxserve_plugins.ollama.models import API_VERSION, running, shown, tags
from mlxserve_plugins.ollama.replies import Line, OllamaReply, loaded
from mlxserve_plugins.ollama.translating import chat_of, conversation_of, model_name, text_of
from mlxserve_plugins.openai.chat import SpokenChoice, is_forced, meter_of
from mlxserve_plugins.openai.jobs import Job, chat_job, completion_job
from mlxserve_plugins.surface.checks import check_model
from mlxserve_plugins.surface.desks import AnyRequest, Desks, present
from mlxserve_plugins.surface.errors import logged
from mlxserve_plugins.surface.transport import (
    ClientLeftError,
    EventStream,
    JsonBody,
    while_connected,
)
from mlxserve_plugins.tools.ignored import IgnoredTools

CLIENT_LEFT = 499
"""A status that nobody sees: the connection is closed."""

_encode = msgspec.json.Encoder().encode


@define(eq=False)
class Api:
    """The endpoints' work, apart from their paths."""

    services: Services
    ignored: IgnoredTools = field(factory=IgnoredTools)
    desks: Desks = field(init=False)
    embedding: Embedding = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make a desk for each table."""
        self.embedding = Embedding(self.services)
        self.desks = Desks(self.services, TABLES)

    @property
    def engine(self) -> EngineClient:
        """The engine."""
        return self.services.engine

    async def chat(self, body: ChatBody, request: AnyRequest) -> Response[Any]:
        """Answer a chat, or say that the model is there."""
        notes = self.desks.noted(body, request)
        if not body.messages:
            return self._loaded(body.model, chat=True)
        asked = chat_of(body, notes)
        job = await chat_job(asked, self.engine, request.state.tenant, notes)
        self.ignored.tell(job.tools, job.text.markup, request.scope["state"])
        self.desks.file(body, request, notes)
        return await self._answer(OllamaReply(job, self._reader(job), chat=True), request)

    async def generate(self, body: GenerateBody, request: AnyRequest) -> Response[Any]:
        """Answer a prompt, or say that the model is there."""
        notes = self.desks.noted(body, request)
        if not body.prompt:
            return self._loaded(body.model, chat=False)
        tenant = request.state.tenant
        if body.raw:
            job = await completion_job(text_of(body, notes), self.engine, tenant, notes)
            spoken = SpokenChoice(None)
        else:
            job = await chat_job(conversation_of(body, notes), self.engine, tenant, notes)
            spoken = self._reader(job)
        self.desks.file(body, request, notes)
        return await self._answer(OllamaReply(job, spoken, chat=False), request)

    def show(self, body: ShowBody, request: AnyRequest) -> dict[str, Any]:
        """Describe the model."""
        notes = self.desks.noted(body, request)
        check_model(model_name(body.model), self.engine.card, notes)
        self.desks.file(body, request, notes)
        return shown(self.engine)

    async def embed(self, body: EmbedBody | EmbeddingsBody, request: AnyRequest) -> Response[Any]:
        """Answer with the vectors of texts, or say that the model is there."""
        notes = self.desks.noted(body, request)
        check_model(model_name(body.model), self.engine.card, notes)
        self.desks.file(body, request, notes)
        tenant = request.state.tenant
        if isinstance(body, EmbedBody):
            work = self.embedding.new(body, tenant)
        else:
            work = self.embedding.old(body, tenant)
        try:
            done = await while_connected(request.receive, work)
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        return Response(done, media_type="application/json")

    def _reader(self, job: Job) -> SpokenChoice:
        forced = is_forced(job.requests[0])
        return SpokenChoice(
            self.services.make_parser(job.text, job.tools, job.reasoning, forced),
            meter=meter_of(job.text, job.reasoning),
        )

    def _loaded(self, model: str, *, chat: bool) -> Response[Any]:
        check_model(model_name(model), self.engine.card)
        return Response(loaded(self.engine.card.id, chat=chat))

    async def _answer(self, reply: OllamaReply, request: AnyRequest) -> Response[Any]:
        try:
            if not reply.job.stream:
                return Response(await while_connected(request.receive, self._gather(reply)))
            lines = self._lines(reply, request.url.path)
            head = await while_connected(request.receive, _first(lines))
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        stream = EventStream(head, lines)
        stream.headers["content-type"] = "application/x-ndjson"
        return stream

    async def _gather(self, reply: OllamaReply) -> Line:
        async with aclosing(self._batches(reply.job)) as batches:
            async for events in batches:
                for event in events:
                    if event.prefilled is None:
                        reply.add(event)
        return reply.whole()

    async def _lines(self, reply: OllamaReply, path: str) -> AsyncGenerator[bytes, None]:
        """Yield a stream's bytes; a failure before the first yield is raised."""
        begun, out = False, b""
        try:
            async with aclosing(self._batches(reply.job)) as batches:
                async for events in batches:
                    out = b""
                    for event in events:
                        for line in reply.lines(event) if event.prefilled is None else ():
                            out += _encode(line) + b"\n"
                    begun = True
                    yield out
                    out = b""
        except Exception as error:
            if not begun:
                raise
            told = error if isinstance(error, RequestError) else logged(error, path)
            yield out + _encode({"error": told.message}) + b"\n"

    async def _batches(self, job: Job) -> AsyncGenerator[Any, None]:
        (asked,) = job.requests
        self.services.admission.admit(asked)
        events: AsyncIterator[Any] = self.engine.generate(asked)
        try:
            async for batch in events:
                yield batch
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()


def make_routes(services: Services) -> list[Router]:
    """Return the API's routes."""
    api = Api(services)
    makers: list[Callable[[Api], HTTPRouteHandler]] = [
        _chat, _generate, _tags, _running, _show, _embed, _embeddings, _version,
    ]  # fmt: skip
    handlers = [make(api) for make in makers]
    return [Router(path="/", route_handlers=handlers, guards=[api.desks.guard()], tags=["Ollama"])]


def _chat(api: Api) -> HTTPRouteHandler:
    @post("/api/chat", dto=JsonBody[ChatBody], status_code=200)
    async def ollama_chat(
        request: AnyRequest, data: Annotated[ChatBody | None, Body()] = None
    ) -> Response[Any]:
        """Continue a conversation; streams lines of JSON unless ``stream`` is false."""
        return await api.chat(present(data), request)

    return ollama_chat


def _generate(api: Api) -> HTTPRouteHandler:
    @post("/api/generate", dto=JsonBody[GenerateBody], status_code=200)
    async def ollama_generate(
        request: AnyRequest, data: Annotated[GenerateBody | None, Body()] = None
    ) -> Response[Any]:
        """Answer a prompt; streams lines of JSON unless ``stream`` is false."""
        return await api.generate(present(data), request)

    return ollama_generate


def _show(api: Api) -> HTTPRouteHandler:
    @post("/api/show", dto=JsonBody[ShowBody], status_code=200)
    async def ollama_show(
        request: AnyRequest, data: Annotated[ShowBody | None, Body()] = None
    ) -> dict[str, Any]:
        """Describe the model."""
        return api.show(present(data), request)

    return ollama_show


def _embed(api: Api) -> HTTPRouteHandler:
    @post("/api/embed", dto=JsonBody[EmbedBody], status_code=200)
    async def ollama_embed(
        request: AnyRequest, data: Annotated[EmbedBody | None, Body()] = None
    ) -> Response[Any]:
        """Embed texts: a vector of length 1 for each."""
        return await api.embed(present(data), request)

    return ollama_embed


def _embeddings(api: Api) -> HTTPRouteHandler:
    @post("/api/embeddings", dto=JsonBody[EmbeddingsBody], status_code=200)
    async def ollama_embeddings(
        request: AnyRequest, data: Annotated[EmbeddingsBody | None, Body()] = None
    ) -> Response[Any]:
        """Embed one text, as Ollama did before; its vector is not normalised."""
        return await api.embed(present(data), request)

    return ollama_embeddings


def _tags(api: Api) -> HTTPRouteHandler:
    @get("/api/tags")
    async def ollama_tags() -> dict[str, Any]:
        """List the model."""
        return tags(api.engine.card)

    return ollama_tags


def _running(api: Api) -> HTTPRouteHandler:
    @get("/api/ps")
    async def ollama_ps() -> dict[str, Any]:
        """List the model as one that is in memory."""
        return running(api.engine.card)

    return ollama_ps


def _version(_: Api) -> HTTPRouteHandler:
    @get("/api/version")
    async def ollama_version() -> dict[str, str]:
        """Name the version of Ollama whose API this is."""
        return {"version": API_VERSION}

    return ollama_version


def _first(lines: AsyncGenerator[bytes, None]) -> Coroutine[Any, Any, bytes]:
    async def first() -> bytes:
        return await anext(lines)

    return first()
