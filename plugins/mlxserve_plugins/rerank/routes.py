"""``/v1/rerank``: what it takes and what it answers."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from attrs import frozen
from litestar import Response, Router, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body
from msgspec import UNSET

from mlxserve_hookspecs import Services
from mlxserve_plugins.embeddings.bodies import EmbeddingsUsage
from mlxserve_plugins.embeddings.texts import split_texts
from mlxserve_plugins.embeddings.vectors import PoolingChoice, vectors
from mlxserve_plugins.openai.parameters import check_model
from mlxserve_plugins.openai.routes import CLIENT_LEFT, ERRORS
from mlxserve_plugins.rerank.bodies import Document, RankedDocument, RerankAnswer, RerankBody
from mlxserve_plugins.rerank.fields import TABLES
from mlxserve_plugins.rerank.scoring import Method, scorer_of
from mlxserve_plugins.surface.desks import AnyRequest, Desks, present
from mlxserve_plugins.surface.transport import ClientLeftError, JsonBody, while_connected

PATHS: Final = ["/v1/rerank", "/v2/rerank", "/rerank"]


@frozen(eq=False)
class Api:
    """The endpoint's work, apart from its path."""

    services: Services
    method: Method
    pooling: PoolingChoice
    desks: Desks

    async def rerank(self, body: RerankBody, request: AnyRequest) -> Response[Any]:
        """Answer a request to rank documents."""
        notes = self.desks.noted(body, request)
        card, text = self.services.engine.card, self.services.engine.text
        check_model(body.model, card, notes)
        documents = [one if isinstance(one, str) else one.text for one in body.documents]
        split_texts(body.query, "query")
        split_texts(documents, "documents")
        scorer = scorer_of(self.method, card, text, self.pooling.of(card, text))
        tenant = request.state.tenant
        asked = await scorer.request(body.query, documents, body.instruction, tenant)
        self.desks.file(body, request, notes)
        try:
            rows = await while_connected(request.receive, vectors(self.services, asked))
        except ClientLeftError:
            return Response(None, status_code=CLIENT_LEFT)
        used = len(asked.prompt)
        answer = RerankAnswer(
            id=f"rerank-{uuid.uuid4().hex}",
            model=card.id,
            results=ranked(scorer.scores(rows), body, documents),
            usage=EmbeddingsUsage(prompt_tokens=used, total_tokens=used),
        )
        return Response(answer)


def ranked(
    scores: Sequence[float], body: RerankBody, documents: Sequence[str]
) -> list[RankedDocument]:
    """Return the best documents first; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda at: -scores[at])[: body.top_n]
    shows = body.return_documents is True
    return [
        RankedDocument(
            index=at,
            relevance_score=scores[at],
            document=Document(documents[at]) if shows else UNSET,
        )
        for at in order
    ]


def make_routes(
    services: Services, method: Method, pooling: Literal["auto", "mean", "last"]
) -> list[Router]:
    """Return the API's routes.

    Args:
        services: The engine, and who may use it.
        method: How documents are scored.
        pooling: What the user set for embeddings.
    """
    desks = Desks(services, TABLES)
    api = Api(services, method, PoolingChoice(pooling), desks)
    return [Router(path="/", route_handlers=[_rerank(api)], guards=[desks.guard()])]


def _rerank(api: Api) -> HTTPRouteHandler:
    @post(PATHS, dto=JsonBody[RerankBody], status_code=200, responses=ERRORS)
    async def rerank(
        request: AnyRequest, data: Annotated[RerankBody | None, Body()] = None
    ) -> Response[RerankAnswer]:
        """Rank documents by a query."""
        return await api.rerank(present(data), request)

    return rerank
