"""What clients send and get, as Cohere and Jina have it."""

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.embeddings.bodies import EmbeddingsUsage
from mlxserve_plugins.rerank.fields import RERANK
from mlxserve_plugins.surface.fields import Table


class Document(Struct):
    """A document that may have more than its text."""

    text: str


class RerankBody(Struct, kw_only=True):
    """The body of ``/v1/rerank``."""

    TABLE: ClassVar[Table] = RERANK

    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1)]
    model: str | None = None
    top_n: Annotated[int, Meta(ge=1, le=INT32_MAX)] | None = None
    return_documents: bool | None = None
    instruction: str | None = None


class RankedDocument(Struct, kw_only=True):
    """One document: its place in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RerankAnswer(Struct, kw_only=True):
    """The answer, best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: EmbeddingsUsage
