"""Messages as clients send them, made into what chat templates understand."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlxserve_hookspecs import RequestError
from mlxserve_hookspecs.markup import CALLS

TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
"""A text part's type: of chat, and of what a client sends and gets back elsewhere."""


def check_unicode(text: str, param: str | None = None) -> None:
    """Return if every character of ``text`` is one.

    Raises:
        RequestError: It holds half of a surrogate pair, as JSON can spell it (status 400).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            status=400,
            message=f"the text is not valid Unicode at character {error.start}",
            param=param,
        ) from error


def normalised(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return copies whose content is a string and whose calls have their arguments parsed.

    Text parts are joined, because many templates take strings only; content of ``null`` or none
    becomes an empty string, which no template renders as "None"; arguments become the object
    that they spell, because templates turn them into JSON themselves: an empty one if they spell
    none, and text only where they spell nothing that JSON knows.

    Raises:
        RequestError: A message has content that is not text (status 400).
    """
    return [_message(message, index) for index, message in enumerate(messages)]


def _message(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    plain = {**message, "content": _text(message.get("content"), f"messages.{index}.content")}
    if message.get(CALLS):
        plain[CALLS] = [_call(call) for call in message[CALLS]]
    return plain


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return _unicode(content, where)
    if isinstance(content, Sequence):
        return "".join(_part(part, f"{where}.{index}") for index, part in enumerate(content))
    raise RequestError(status=400, message="content must be a string or text parts", param=where)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return _unicode(part, where)
    text = part.get("text") if isinstance(part, Mapping) else None
    if isinstance(text, str) and part.get("type", "text") in TEXT_PARTS:
        return _unicode(text, where)
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(
        status=400,
        message=f"this model reads text only, not a content part of type {kind!r}",
        param=where,
    )


def _unicode(text: str, where: str) -> str:
    check_unicode(text, where)
    return text


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(spelt: Any) -> Any:
    if not isinstance(spelt, str):
        return {} if spelt is None else spelt
    try:
        parsed = json.loads(spelt) if spelt.strip() else {}
    except (ValueError, RecursionError):
        return spelt  # what the model once wrote need not be JSON
    return parsed if isinstance(parsed, dict) else {} if parsed is None else spelt
