"""Input items: read from what clients send, each into a struct of its kind."""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.surface.checks import refusal
from mlxserve_plugins.surface.decoding import explain

Json: TypeAlias = dict[str, Any]
Content: TypeAlias = str | list[Json]


class Message(Struct, kw_only=True):
    """What somebody said."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: str | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class Called(Struct, kw_only=True):
    """What calls have in common."""

    name: str
    call_id: str
    type: str | None = None
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    caller: Any = None


class FunctionCall(Called):
    """A call of a function, made earlier."""

    arguments: str


class CustomCall(Called):
    """A call of a custom tool, made earlier; its input is plain text."""

    input: str


class CallOutput(Struct, kw_only=True):
    """What a call came to, of a function or of a custom tool."""

    output: Content
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    type: str | None = None
    id: str | None = None
    status: str | None = None
    caller: Any = None


class Thinking(Struct, kw_only=True):
    """What the model thought earlier. Encrypted content of another server's says nothing here."""

    summary: list[Json] = []
    content: list[Json] | None = None
    encrypted_content: str | None = None
    type: str | None = None
    id: str | None = None
    status: str | None = None


class MoreTools(Struct, kw_only=True):
    """Tools that a client adds on the way."""

    tools: list[Json]
    role: str | None = None
    type: str | None = None
    id: str | None = None


Item: TypeAlias = Message | FunctionCall | CustomCall | CallOutput | Thinking | MoreTools
Placed: TypeAlias = tuple[str, Item]
"""An item and where in the request it stands, for errors."""

KINDS: Final[dict[str, type[Item]]] = {
    "message": Message,
    "function_call": FunctionCall,
    "custom_tool_call": CustomCall,
    "function_call_output": CallOutput,
    "custom_tool_call_output": CallOutput,
    "reasoning": Thinking,
    "additional_tools": MoreTools,
}
SILENT: Final = frozenset({"web_search_call", "image_generation_call", "compaction_trigger"})
"""Items of other servers' tools that hold nothing for a model to read."""

TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def read_items(given: Sequence[Json], where: str = "input") -> list[Placed]:
    """Return the items as structs, each with its place in the request.

    Raises:
        RequestError: One is of a kind that this server does not have, or is malformed.
    """
    places = [(f"{where}[{at}]", item) for at, item in enumerate(given)]
    found = [(place, read_item(item, place)) for place, item in places]
    return [(place, item) for place, item in found if item is not None]


def read_item(given: Json, where: str) -> Item | None:
    """Return one item; ``None`` if a model has nothing of it. Raises like ``read_items``."""
    kind = given.get("type") or "message"
    if isinstance(kind, str) and kind in SILENT:
        return None
    struct = KINDS.get(kind) if isinstance(kind, str) else None
    if struct is None:
        message = f"`{where}.type` is {kind!r}: items of that type are not supported by this server"
        raise refusal(f"{where}.type", message, "unsupported_parameter")
    item: Item = convert(given, struct, where)
    return item


def convert(given: Json, struct: type[Any], where: str) -> Any:
    """Return ``given`` as a ``struct``.

    Raises:
        RequestError: It is none; the field is named under ``where``.
    """
    try:
        return msgspec.convert(given, struct)
    except msgspec.ValidationError as error:
        raise _explained(str(error), where) from None


def text_of(content: Content, where: str) -> str:
    """Return a content's text; parts are joined.

    Raises:
        RequestError: A part is no text: an image, a file, audio.
    """
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{where}[{at}]") for at, part in enumerate(content))


def _part(part: Json, where: str) -> str:
    kind = part.get("type")
    key = "refusal" if kind == "refusal" else "text"
    if not isinstance(kind, str) or (kind not in TEXTS and key == "text"):
        message = f"`{where}.type` is {kind!r}: this model reads text only"
        raise refusal(f"{where}.type", message, "unsupported_parameter")
    text = part.get(key)
    if not isinstance(text, str):
        raise refusal(f"{where}.{key}", f"`{where}.{key}` must be a string")
    return text


def _explained(text: str, where: str) -> RequestError:
    if " - at `$" in text:
        return explain(text.replace(" - at `$", f" - at `$.{where}", 1))
    return explain(f"{text} - at `$.{where}`")
