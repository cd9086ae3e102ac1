"""Messages and tools: as a client sends them, and as a chat template wants them.

Keys that nobody knows are left out here: histories that other servers and clients wrote carry
dozens, and none of them is text.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from mlxserve_hookspecs import RequestError

THOUGHTS = frozenset({"thinking", "reasoning", "redacted_thinking"})
"""Parts that a model wrote for itself: no part of what was said."""

TEXTS = frozenset({"text", "input_text", "output_text"})


class TextPart(Struct):
    """A piece of a message's text; pieces of other kinds (images, audio) are refused."""

    text: str | None = None
    type: str = "text"
    refusal: str | None = None


Content: TypeAlias = str | list[str | TextPart]


class Message(Struct, tag_field="role", kw_only=True):
    """What all messages may have; without content it is empty."""

    content: Content | None = None
    name: str | None = None


class SystemMessage(Message, tag="system"):
    """Instructions."""


class DeveloperMessage(Message, tag="developer"):
    """Instructions by their newer name; templates know them as the system's."""


class UserMessage(Message, tag="user"):
    """What a person says."""


class ToolMessage(Message, tag="tool"):
    """What a tool answered."""

    tool_call_id: str | None = None


class FunctionMessage(Message, tag="function"):
    """What a function answered, by the older name of tools."""


class CalledFunction(Struct, kw_only=True):
    """A function and its arguments: JSON text, what it spells, or nothing."""

    name: str | None = None
    arguments: Any = None


class CalledTool(Struct, kw_only=True):
    """A tool that takes text, and the text."""

    name: str | None = None
    input: str | None = None


class MadeCall(Struct, kw_only=True):
    """A call that the assistant made earlier."""

    function: CalledFunction | None = None
    custom: CalledTool | None = None
    id: str | None = None


class AssistantMessage(Message, tag="assistant"):
    """What the model said earlier; the fields of a reply can be sent back as they came."""

    tool_calls: list[MadeCall] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    function_call: CalledFunction | None = None
    prefix: Any = None
    partial: Any = None


AnyMessage: TypeAlias = (
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)
Conversation: TypeAlias = Annotated[list[AnyMessage], Meta(min_length=1)]


class Function(Struct, kw_only=True, omit_defaults=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True, tag_field="type", tag="function"):
    """A tool; only functions are."""

    function: Function


class FunctionName(Struct):
    """A function by its name."""

    name: Annotated[str, Meta(min_length=1)]


class NamedTool(Struct, kw_only=True, tag_field="type", tag="function"):
    """The tool that must be called."""

    function: FunctionName


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


def plain_text(content: Content | None, where: str = "content") -> str:
    """Return a content's text; parts are joined, and what the model thought is left out.

    Raises:
        RequestError: A part is no text (status 400).
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(part, f"{where}[{at}]") for at, part in enumerate(content))


def for_template(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    """Return the messages as chat templates know them.

    Raises:
        RequestError: A message holds what is no text (status 400).
    """
    return [_plain(message, f"messages[{at}].content") for at, message in enumerate(messages)]


def asks_to_be_continued(messages: Sequence[AnyMessage]) -> bool:
    """Return whether the last message is a beginning: Mistral's ``prefix``, Moonshot's word."""
    last = messages[-1] if messages else None
    return isinstance(last, AssistantMessage) and bool(last.prefix or last.partial)


def tools_for_template(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """Return the tools as chat templates know them; ``None`` when there are none."""
    found: list[dict[str, Any]] = msgspec.to_builtins(tools or [])
    return found or None


def _part(part: str | TextPart, where: str) -> str:
    if isinstance(part, str):
        return part
    if part.type in THOUGHTS:
        return ""
    if part.type == "refusal":
        return part.refusal or ""
    if part.type not in TEXTS:
        message = f"`{where}.type` is {part.type!r}: only 'text' parts are supported"
        code = "unsupported_parameter"
        raise RequestError(status=400, message=message, param=f"{where}.type", code=code)
    if part.text is None:
        message, code = f"missing required field `{where}.text`", "missing_required_parameter"
        raise RequestError(status=400, message=message, param=f"{where}.text", code=code)
    return part.text


def _plain(message: AnyMessage, where: str) -> dict[str, Any]:
    if isinstance(message, AssistantMessage):
        return _assistant(message, where)
    plain: dict[str, Any] = {"role": _role(message), "content": plain_text(message.content, where)}
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, ToolMessage) and message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _role(message: AnyMessage) -> str:
    if isinstance(message, DeveloperMessage):
        return "system"
    if isinstance(message, FunctionMessage):
        return "tool"
    return str(message.__struct_config__.tag)


def _assistant(message: AssistantMessage, where: str) -> dict[str, Any]:
    said = message.content if message.content is not None else message.refusal
    plain: dict[str, Any] = {"role": "assistant", "content": plain_text(said, where)}
    if message.name is not None:
        plain["name"] = message.name
    thought = message.reasoning_content or message.reasoning
    if isinstance(thought, str):
        plain["reasoning_content"] = thought
    calls = message.tool_calls or []
    if not calls and message.function_call is not None:
        calls = [MadeCall(function=message.function_call)]
    if calls:
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def _call(call: MadeCall) -> dict[str, Any]:
    made = call.function or CalledFunction()
    if call.custom is not None:
        made = CalledFunction(name=call.custom.name, arguments={"input": call.custom.input or ""})
    function = {"name": made.name or "", "arguments": _arguments(made.arguments)}
    plain: dict[str, Any] = {"type": "function", "function": function}
    return plain if call.id is None else {"id": call.id, **plain}


def _arguments(given: Any) -> str | dict[str, Any]:
    if given is None:
        return {}
    return given if isinstance(given, str | dict) else msgspec.json.encode(given).decode()
