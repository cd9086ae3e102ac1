"""Messages and tools: as a client sends them, and as a chat template wants them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from mlxserve_hookspecs import RequestError


class TextPart(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A piece of a message's text; parts of other kinds (images, audio) are refused."""

    text: str


Content: TypeAlias = str | list[TextPart]


class Message(Struct, tag_field="role", kw_only=True, forbid_unknown_fields=True):
    """What all messages may have."""

    name: str | None = None


class SystemMessage(Message, tag="system"):
    """Instructions."""

    content: Content


class DeveloperMessage(Message, tag="developer"):
    """Instructions by their newer name; templates know them as the system's."""

    content: Content


class UserMessage(Message, tag="user"):
    """What a person says."""

    content: Content


class ToolMessage(Message, tag="tool"):
    """What a tool answered."""

    content: Content
    tool_call_id: str | None = None


class CalledFunction(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function and its arguments, as JSON text."""

    name: str
    arguments: str


class MadeCall(Struct, kw_only=True, forbid_unknown_fields=True):
    """A call that the assistant made earlier."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class AssistantMessage(Message, tag="assistant"):
    """What the model said earlier; the fields of a reply can be sent back as they came."""

    content: Content | None = None
    tool_calls: list[MadeCall] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


AnyMessage: TypeAlias = (
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage
)
Conversation: TypeAlias = Annotated[list[AnyMessage], Meta(min_length=1)]


class Function(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool; only functions are."""

    type: Literal["function"]
    function: Function


class FunctionName(Struct, forbid_unknown_fields=True):
    """A function by its name."""

    name: Annotated[str, Meta(min_length=1)]


class NamedTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


def plain_text(content: Content) -> str:
    """Return a content's text; parts are joined."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def for_template(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    """Return the messages as chat templates know them.

    Raises:
        RequestError: An assistant's message says nothing at all.
    """
    return [_plain(message, f"messages[{at}]") for at, message in enumerate(messages)]


def tools_for_template(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Return the tools as chat templates know them; ``None`` when there are none."""
    found: list[dict[str, Any]] = msgspec.to_builtins(tools or [])
    return found or None


def _plain(message: AnyMessage, where: str) -> dict[str, Any]:
    if isinstance(message, AssistantMessage):
        return _assistant(message, where)
    role = message.__struct_config__.tag
    plain: dict[str, Any] = {
        "role": "system" if isinstance(message, DeveloperMessage) else role,
        "content": plain_text(message.content),
    }
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, ToolMessage) and message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _assistant(message: AssistantMessage, where: str) -> dict[str, Any]:
    said = message.content if message.content is not None else message.refusal
    if said is None and not message.tool_calls:
        raise RequestError(
            status=400,
            message=f"`{where}.content` is missing: only a message with `tool_calls` may have none",
            param=f"{where}.content",
        )
    plain: dict[str, Any] = {"role": "assistant", "content": plain_text(said or "")}
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    return plain


def _call(call: MadeCall) -> dict[str, Any]:
    plain = {"type": "function", "function": msgspec.to_builtins(call.function)}
    return plain if call.id is None else {"id": call.id, **plain}
