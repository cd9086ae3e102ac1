"""What clients get: a message, the events of one that streams, a count, an error."""

from typing import Any, Literal, TypeAlias

from msgspec import Struct

StopReason: TypeAlias = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class ThinkingTokens(Struct):
    """How many of a reply's tokens were thought and not said."""

    thinking_tokens: int


class Usage(Struct, kw_only=True):
    """What a request cost. The prompt is the sum of the three kinds of input tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    output_tokens_details: ThinkingTokens | None = None


class TextContent(Struct, tag_field="type", tag="text"):
    """Text for the reader."""

    text: str = ""


class ThinkingContent(Struct, tag_field="type", tag="thinking"):
    """The model's thinking."""

    thinking: str = ""
    signature: str = ""


class ToolUseContent(Struct, tag_field="type", tag="tool_use"):
    """A call that the model wants made."""

    id: str
    name: str
    input: dict[str, Any]


ReplyBlock: TypeAlias = TextContent | ThinkingContent | ToolUseContent


class Message(Struct, tag_field="type", tag="message", kw_only=True):
    """The answer of ``/v1/messages``."""

    id: str
    model: str
    usage: Usage
    content: list[ReplyBlock]
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None


class TokenCount(Struct):
    """The answer of ``/v1/messages/count_tokens``."""

    input_tokens: int


class TextDelta(Struct, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingDelta(Struct, tag_field="type", tag="thinking_delta"):
    """More thinking."""

    thinking: str


class SignatureDelta(Struct, tag_field="type", tag="signature_delta"):
    """What a client sends back with the thinking."""

    signature: str


class InputJsonDelta(Struct, tag_field="type", tag="input_json_delta"):
    """More of a call's arguments."""

    partial_json: str


Delta: TypeAlias = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class MessageStart(Struct, tag_field="type", tag="message_start"):
    """A message begins."""

    message: Message


class BlockStart(Struct, tag_field="type", tag="content_block_start"):
    """A block begins."""

    index: int
    content_block: ReplyBlock


class BlockDelta(Struct, tag_field="type", tag="content_block_delta"):
    """A block goes on."""

    index: int
    delta: Delta


class BlockStop(Struct, tag_field="type", tag="content_block_stop"):
    """A block ends."""

    index: int


class Ending(Struct):
    """Why a message ends."""

    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(Struct, tag_field="type", tag="message_delta"):
    """The message is over; what it cost."""

    delta: Ending
    usage: Usage


class MessageStop(Struct, tag_field="type", tag="message_stop"):
    """The stream ends."""


class Ping(Struct, tag_field="type", tag="ping"):
    """The server is alive."""


class ErrorInfo(Struct):
    """What is wrong."""

    type: str
    message: str


class ErrorBody(Struct, tag_field="type", tag="error", omit_defaults=True):
    """Any error, as a body and as an event."""

    error: ErrorInfo
    request_id: str | None = None


Event: TypeAlias = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
