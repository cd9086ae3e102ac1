"""``/v1/embeddings``: what it takes and what it answers."""

import asyncio
from typing import Annotated, Any, Final, Literal

import msgspec
from attrs import frozen
from litestar import Response, Router, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body

from mlxserve_hookspecs import Services
from mlxserve_plugins.embeddings.bodies import (
    EmbeddingInfo,
    EmbeddingsAnswer,
    EmbeddingsBody,
    EmbeddingsUsage,
)
from mlxserve_plugins.embeddings.fields import TABLES
from mlxserve_plugins.embeddings.texts import (
    check_lengths,
    pooling_request,
    split_texts,
    tokens_of,
)
from mlxserve_plugins.embeddings.vectors import (
    POOLING_HEADER,
    Matrix,
    PoolingChoice,
    as_base64,
    shaped,
    vectors,
)
from mlxserve_plugins.openai.parameters import check_model
from mlxserve_plugins.openai.routes import CLIENT_LEFT, ERRORS
from mlxserve_plugins.surface.desks import AnyRequest, Desks, present
from mlxserve_plugins.surface.transport import ClientLeftError, JsonBody, while_connected

MANY: Final = 1 << 16
"""Numbers from which on an answer is written off the event loop."""


@frozen(eq=False)
class Api:
    """The endpoint's work, apart from its path."""

    services: Services
    pooling: PoolingChoice
    desks: Desks

    async def embed(self, body: EmbeddingsBody, request: AnyRequest) -> Response[Any]:
        """Answer a request for embeddings."""
        notes = self.desks.noted(body, request)
        card, text = self.services.engine.card, self.services.engine.text
        check_model(body.model, card, notes)
        texts = split_texts(body.input, "input")
        special = body.add_special_tokens is not False
        tokens = await tokens_of(text, texts, card, "input", special=special)
        check_lengths(tokens, card, "input")
        kind = self.pooling.of(card, text)
        asked = pooling_request(tokens, kind, card, request.state.tenant)
        self.desks.file(body, request, notes)
        try:
            rows = await while_connected(request.receive, vectors(self.services, asked))
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        used = len(asked.prompt)

        def answer() -> bytes:
            made = shaped(rows, dimensions=body.dimensions, normal=body.normalize is not False)
            return _encode(_answer(made, body.encoding_format or "float", card.id, used))

        done = await asyncio.to_thread(answer) if rows.size > MANY else answer()
        return Response(done, media_type="application/json", headers={POOLING_HEADER: kind})


_encode = msgspec.json.Encoder().encode


def _answer(rows: Matrix, form: str, model: str, used: int) -> EmbeddingsAnswer:
    return EmbeddingsAnswer(
        data=[
            EmbeddingInfo(index=at, embedding=as_base64(row) if form == "base64" else row.tolist())
            for at, row in enumerate(rows)
        ],
        model=model,
        usage=EmbeddingsUsage(prompt_tokens=used, total_tokens=used),
    )


def make_routes(services: Services, pooling: Literal["auto", "mean", "last"]) -> list[Router]:
    """Return the API's routes.

    Args:
        services: The engine, and who may use it.
        pooling: What the user set.
    """
    desks = Desks(services, TABLES)
    api = Api(services, PoolingChoice(pooling), desks)
    handlers = [_embeddings(api)]
    return [Router(path="/", route_handlers=handlers, guards=[desks.guard()], tags=["OpenAI"])]


def _embeddings(api: Api) -> HTTPRouteHandler:
    paths = ["/v1/embeddings", "/embeddings"]

    @post(paths, dto=JsonBody[EmbeddingsBody], status_code=200, responses=ERRORS)
    async def embeddings(
        request: AnyRequest, data: Annotated[EmbeddingsBody | None, Body()] = None
    ) -> Response[EmbeddingsAnswer]:
        """Embed texts: a vector of length 1 for each."""
        return await api.embed(present(data), request)

    return embeddings
