"""What clients send, field by field, after the surface's table has been over it (``fields``).

Unknown keys within turns, blocks and tools are ignored: marks for a cache, citations and the like.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.anthropic.fields import MESSAGES
from mlxserve_plugins.surface.fields import Table

MOST_STOPS = 64

Count: TypeAlias = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Size: TypeAlias = Annotated[int, Meta(ge=0)]
StopString: TypeAlias = Annotated[str, Meta(min_length=1)]


class Block(Struct, tag_field="type", kw_only=True):
    """A piece of content."""


class TextBlock(Block, tag="text"):
    """Text."""

    text: str


class ImageBlock(Block, tag="image"):
    """An image: known, so that it can be refused in words."""


class PlainSource(Struct, tag_field="type", tag="text", kw_only=True):
    """A document that is text."""

    data: str


class ContentSource(Struct, tag_field="type", tag="content", kw_only=True):
    """A document that is blocks."""

    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(Block, tag="document"):
    """A document; files and those of other kinds are refused."""

    source: PlainSource | ContentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(Block, tag="search_result"):
    """Something that was found."""

    source: str
    title: str
    content: list[TextBlock]


class ToolReferenceBlock(Block, tag="tool_reference"):
    """The name of a tool that was looked for."""

    tool_name: str


ResultBlock: TypeAlias = (
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock
)


class ToolResultBlock(Block, tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None


class ToolUseBlock(Block, tag="tool_use"):
    """A call that the model made."""

    id: str
    name: str
    input: dict[str, Any]


class ThinkingBlock(Block, tag="thinking"):
    """What the model thought."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block, tag="redacted_thinking"):
    """What another server's model thought, unreadable here: it is left out."""


AnyBlock: TypeAlias = (
    ResultBlock | ToolResultBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock
)
Content: TypeAlias = str | list[AnyBlock]


class Turn(Struct, tag_field="role", kw_only=True):
    """What all turns have."""

    content: Content


class UserTurn(Turn, tag="user"):
    """What a person says, and what tools answered."""


class AssistantTurn(Turn, tag="assistant"):
    """What the model said; as the last turn, what its reply begins with."""


class SystemTurn(Turn, tag="system"):
    """Instructions within a conversation."""


AnyTurn: TypeAlias = UserTurn | AssistantTurn | SystemTurn


class Tool(Struct, kw_only=True):
    """A tool that the client runs.

    Attributes:
        type: ``custom`` if anything: what Anthropic's own servers run is refused.
    """

    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AutoChoice(Struct, tag_field="type", tag="auto", kw_only=True):
    """The model calls tools if it likes."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag_field="type", tag="any", kw_only=True):
    """The model calls one of the tools."""

    disable_parallel_tool_use: bool | None = None


class NamedChoice(Struct, tag_field="type", tag="tool", kw_only=True):
    """The model calls this tool."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Struct, tag_field="type", tag="none", kw_only=True):
    """The model calls none."""


ToolChoice: TypeAlias = AutoChoice | AnyChoice | NamedChoice | NoChoice
Display: TypeAlias = Literal["summarized", "omitted"] | None


class EnabledThinking(Struct, tag_field="type", tag="enabled", kw_only=True):
    """The model thinks, for so many tokens at most."""

    budget_tokens: Count | None = None
    display: Display = None


class AdaptiveThinking(Struct, tag_field="type", tag="adaptive", kw_only=True):
    """The model thinks as much as it likes."""

    display: Display = None


class BetweenTools(Struct, tag_field="type", tag="between_tools", kw_only=True):
    """The model thinks between calls."""

    display: Display = None


class DisabledThinking(Struct, tag_field="type", tag="disabled", kw_only=True):
    """The model does not think."""

    display: Display = None


Thinking: TypeAlias = EnabledThinking | AdaptiveThinking | BetweenTools | DisabledThinking


class JsonFormat(Struct, kw_only=True):
    """A schema that the reply's text follows."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True):
    """How hard the model tries, and in which form it answers."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class PromptBody(Struct, kw_only=True):
    """The body of ``/v1/messages/count_tokens``: all that a prompt is made of."""

    TABLE: ClassVar[Table] = MESSAGES

    model: str | None = None
    messages: Annotated[list[AnyTurn], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class MessagesBody(PromptBody):
    """The body of ``/v1/messages``.

    Attributes:
        max_tokens: 0 prefills the prompt for a later request and says nothing.
    """

    max_tokens: Size | None = None
    stop_sequences: Annotated[list[StopString], Meta(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Count | None = None
    seed: int | None = None
    priority: Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
