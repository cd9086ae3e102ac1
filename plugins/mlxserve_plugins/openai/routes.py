"""The paths, what they take and what they answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from importlib.metadata import version
from typing import Annotated, Any

from attrs import define, field
from litestar import Response, Router, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body, Parameter

from mlxserve_hookspecs import (
    PROJECT,
    Described,
    EngineClient,
    GenerationRequest,
    RequestError,
    Services,
)
from mlxserve_plugins.openai.answers import (
    ChatCompletion,
    DetokenizeAnswer,
    ErrorBody,
    ModelInfo,
    ModelList,
    TextCompletion,
    TokenizeAnswer,
    VersionAnswer,
)
from mlxserve_plugins.openai.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
)
from mlxserve_plugins.openai.chat import ChatReply
from mlxserve_plugins.openai.completions import CompletionReply
from mlxserve_plugins.openai.fields import TABLES
from mlxserve_plugins.openai.jobs import Job, chat_job, completion_job
from mlxserve_plugins.openai.replies import Reply
from mlxserve_plugins.openai.streaming import server_sent
from mlxserve_plugins.openai.tokenizing import detokenize, tokenize
from mlxserve_plugins.surface.desks import AnyRequest, Desks
from mlxserve_plugins.surface.merging import Events, Start, merge
from mlxserve_plugins.surface.transport import (
    ClientLeftError,
    EventStream,
    JsonBody,
    while_connected,
)
from mlxserve_plugins.tools.ignored import IgnoredTools

HEADERS_AFTER = 1.0
"""Seconds that a stream waits for its first event before it sends headers: a refusal that comes
sooner is a status and not an event."""

CLIENT_LEFT = 499
"""A status that nobody sees: the connection is closed."""

ERRORS = {
    status: ResponseSpec(ErrorBody, description=what)
    for status, what in (
        (400, "the request is wrong; the field is named"),
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
    keepalive: float
    ignored: IgnoredTools = field(factory=IgnoredTools)
    desks: Desks = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make a desk for each surface."""
        self.desks = Desks(self.services, TABLES)

    @property
    def engine(self) -> EngineClient:
        """The engine."""
        return self.services.engine

    async def chat(self, body: ChatBody, request: AnyRequest) -> Response[ChatCompletion]:
        """Answer a chat request."""
        notes = self.desks.noted(body, request)
        job = await chat_job(body, self.engine, request.state.tenant, notes)
        self.ignored.tell(job.tools, job.text.markup, request.scope["state"])
        self.desks.file(body, request, notes)
        return await self._answer(ChatReply(job, self.services.make_parser), request)

    async def complete(self, body: CompletionBody, request: AnyRequest) -> Response[TextCompletion]:
        """Answer a completion request."""
        notes = self.desks.noted(body, request)
        job = await completion_job(body, self.engine, request.state.tenant, notes)
        self.desks.file(body, request, notes)
        return await self._answer(CompletionReply(job), request)

    async def tokenize(self, body: TokenizeBody, request: AnyRequest) -> TokenizeAnswer:
        """Turn a text or a conversation into token ids."""
        notes = self.desks.noted(body, request)
        answer = await tokenize(body, self.engine, notes)
        self.desks.file(body, request, notes)
        return answer

    async def detokenize(self, body: DetokenizeBody, request: AnyRequest) -> DetokenizeAnswer:
        """Turn token ids into text."""
        notes = self.desks.noted(body, request)
        answer = await detokenize(body, self.engine, notes)
        self.desks.file(body, request, notes)
        return answer

    def models(self) -> ModelList:
        """List the model, once."""
        return ModelList([self._described(self.engine.card.id)])

    def model(self, name: str) -> ModelInfo:
        """Return the model of that name, which may be an alias."""
        card = self.engine.card
        if name in (card.id, *card.aliases):
            return self._described(name)
        message = f"the model {name!r} is not served here"
        raise RequestError(status=404, message=message, param="model", code="model_not_found")

    def tokenizer(self) -> Mapping[str, Any]:
        """Describe the tokenizer."""
        limits, text = self.engine.card.limits, self.engine.text
        facts = text.facts if isinstance(text, Described) else {}
        return {**facts, "max_model_len": limits.max_model_len}

    def _described(self, name: str) -> ModelInfo:
        card = self.engine.card
        most = card.limits.max_model_len
        return ModelInfo(name, card.created, most, most)

    async def _answer(self, reply: Reply, request: AnyRequest) -> Response[Any]:
        try:
            if reply.job.stream:
                return await self._stream(reply, request)
            return Response(await while_connected(request.receive, self._gather(reply)))
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)

    async def _stream(self, reply: Reply, request: AnyRequest) -> EventStream:
        patience = min(HEADERS_AFTER, self.keepalive) if self.keepalive else HEADERS_AFTER
        batches = merge(self._starts(reply.job), first_tick=patience, tick=self.keepalive or None)
        comments, path = self.keepalive > 0, request.url.path
        events = server_sent(reply, batches, comments=comments, path=path)
        return EventStream(await while_connected(request.receive, _first(events)), events)

    async def _gather(self, reply: Reply) -> Any:
        async with aclosing(merge(self._starts(reply.job))) as batches:
            async for batch in batches:
                source, events = batch or (0, ())
                for event in events:
                    if event.prefilled is None:
                        reply.add(source, event)
        # Log-probabilities of a long prompt take their time to write.
        return await asyncio.to_thread(reply.whole) if _is_long(reply.job) else reply.whole()

    def _starts(self, job: Job) -> list[Start]:
        return [self._start(request) for request in job.requests]

    def _start(self, request: GenerationRequest) -> Start:
        def start() -> AsyncIterator[Events]:
            self.services.admission.admit(request)
            return self.engine.generate(request)

        return start


def make_routes(services: Services, *, keepalive: float) -> list[Router]:
    """Return the API's routes.

    Args:
        services: The engine, and who may use it.
        keepalive: Seconds of silence after which a stream sends a comment; 0 sends none.
    """
    api = Api(services, keepalive)
    makers: list[Callable[[Api], HTTPRouteHandler]] = [
        _chat,
        _completions,
        _models,
        _model,
        _tokenize,
        _detokenize,
        _version,
        _tokenizer_info,
    ]
    return [
        Router(
            path="/",
            route_handlers=[make(api) for make in makers],
            guards=[api.desks.guard()],
            tags=["OpenAI"],
        )
    ]


def _chat(api: Api) -> HTTPRouteHandler:
    @post(_paths("/chat/completions"), dto=JsonBody[ChatBody], status_code=200, responses=ERRORS)
    async def chat_completions(
        request: AnyRequest, data: Annotated[ChatBody | None, Body()] = None
    ) -> Response[ChatCompletion]:
        """Continue a conversation. With ``stream`` the answer is server-sent events."""
        return await api.chat(_present(data), request)

    return chat_completions


def _completions(api: Api) -> HTTPRouteHandler:
    @post(_paths("/completions"), dto=JsonBody[CompletionBody], status_code=200, responses=ERRORS)
    async def completions(
        request: AnyRequest, data: Annotated[CompletionBody | None, Body()] = None
    ) -> Response[TextCompletion]:
        """Continue texts. With ``stream`` the answer is server-sent events."""
        return await api.complete(_present(data), request)

    return completions


def _models(api: Api) -> HTTPRouteHandler:
    @get(_paths("/models"), responses=ERRORS)
    async def list_models() -> ModelList:
        """List the models that can be asked for."""
        return api.models()

    return list_models


def _model(api: Api) -> HTTPRouteHandler:
    @get(_paths("/models/{model_id:path}"), responses=ERRORS)
    async def retrieve_model(
        model_id: Annotated[str, Parameter(description="A model's id; it may contain slashes")],
    ) -> ModelInfo:
        """Describe one model."""
        return api.model(model_id.removeprefix("/"))

    return retrieve_model


def _tokenize(api: Api) -> HTTPRouteHandler:
    @post("/tokenize", dto=JsonBody[TokenizeBody], status_code=200, responses=ERRORS)
    async def tokenize_text(
        request: AnyRequest, data: Annotated[TokenizeBody | None, Body()] = None
    ) -> TokenizeAnswer:
        """Turn a text or a conversation into token ids."""
        return await api.tokenize(_present(data), request)

    return tokenize_text


def _detokenize(api: Api) -> HTTPRouteHandler:
    @post("/detokenize", dto=JsonBody[DetokenizeBody], status_code=200, responses=ERRORS)
    async def detokenize_tokens(
        request: AnyRequest, data: Annotated[DetokenizeBody | None, Body()] = None
    ) -> DetokenizeAnswer:
        """Turn token ids into text."""
        return await api.detokenize(_present(data), request)

    return detokenize_tokens


def _version(_: Api) -> HTTPRouteHandler:
    @get("/version", responses=ERRORS)
    async def server_version() -> VersionAnswer:
        """Name the server's version."""
        return VersionAnswer(version(PROJECT))

    return server_version


def _tokenizer_info(api: Api) -> HTTPRouteHandler:
    @get("/tokenizer_info", responses=ERRORS)
    async def tokenizer_info() -> dict[str, Any]:
        """Describe the tokenizer: its class, chat template and special tokens."""
        return dict(api.tokenizer())

    return tokenizer_info


def _paths(path: str) -> list[str]:
    # Clients whose base URL lacks the version are served all the same.
    return [f"/v1{path}", path]


def _present(data: Any) -> Any:
    if data is None:
        message = "the request body is empty: send a JSON object"
        raise RequestError(status=400, message=message, code="invalid_json")
    return data


def _first(events: Any) -> Coroutine[Any, Any, bytes]:
    async def first() -> bytes:
        found: bytes = await anext(events)
        return found

    return first()


def _is_long(job: Job) -> bool:
    return any(request.prompt_logprobs is not None for request in job.requests)
