"""What clients send and get."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.embeddings.fields import EMBEDDINGS
from mlxserve_plugins.openai.bodies import Count, Tokens
from mlxserve_plugins.surface.fields import Table


class EmbeddingsBody(Struct, kw_only=True):
    """The body of ``/v1/embeddings``."""

    TABLE: ClassVar[Table] = EMBEDDINGS

    input: str | Annotated[list[str | Count | Tokens], Meta(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=INT32_MAX)] | None = None
    add_special_tokens: bool | None = None
    normalize: bool | None = None


class EmbeddingInfo(Struct, kw_only=True):
    """One text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Struct, kw_only=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct, kw_only=True):
    """The answer, texts in the order of ``input``."""

    object: Literal["list"] = "list"
    data: list[EmbeddingInfo]
    model: str
    usage: EmbeddingsUsage
