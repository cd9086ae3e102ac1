"""What clients send, after the surface's tables have been over it (``fields``)."""

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.ollama.fields import CHAT, EMBED, EMBEDDINGS, GENERATE, SHOW
from mlxserve_plugins.surface.fields import Table


class CalledFunction(Struct, kw_only=True):
    """A function and its arguments."""

    name: str
    arguments: dict[str, Any]


class MadeCall(Struct, kw_only=True):
    """A call that the model made earlier."""

    function: CalledFunction


class Message(Struct, kw_only=True):
    """One message."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[MadeCall] | None = None
    tool_name: str | None = None


class SharedBody(Struct, kw_only=True):
    """What chat and generate have in common."""

    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None


class ChatBody(SharedBody):
    """The body of ``/api/chat``; without messages it only asks for the model to be there."""

    TABLE: ClassVar[Table] = CHAT

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateBody(SharedBody):
    """The body of ``/api/generate``; without a prompt it only asks for the model to be there."""

    TABLE: ClassVar[Table] = GENERATE

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


class ShowBody(Struct, kw_only=True):
    """The body of ``/api/show``."""

    TABLE: ClassVar[Table] = SHOW

    model: str


class EmbedBody(Struct, kw_only=True):
    """The body of ``/api/embed``; without a text it only asks for the model to be there."""

    TABLE: ClassVar[Table] = EMBED

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1, le=INT32_MAX)] | None = None


class EmbeddingsBody(Struct, kw_only=True):
    """The body of ``/api/embeddings``, which newer clients do not use any more."""

    TABLE: ClassVar[Table] = EMBEDDINGS

    model: str
    prompt: str | None = None
