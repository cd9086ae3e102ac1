"""Errors as the surface that was asked tells them: as a body, and as an event of a stream."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.anthropic.errors import PREFIX as MESSAGES
from mlxserve_plugins.anthropic.errors import error_body as messages_body
from mlxserve_plugins.openai.errors import error_body

OLLAMA: Final = "/api/"
RESPONSES: Final = ("/v1/responses", "/responses")
DONE: Final = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


def body_of(path: str, error: RequestError) -> bytes:
    """Return the JSON body of an error at ``path``."""
    if path.startswith(MESSAGES):
        return _encode(messages_body(error.status, error.message))
    if path.startswith(OLLAMA):
        return _encode({"error": error.message})
    return _encode(error_body(error))


def event_of(path: str, body: bytes) -> bytes:
    """Return what tells of an error in a stream that has begun, and ends it.

    Args:
        path: What was asked.
        body: The error as an answer would have it.
    """
    line = b" ".join(body.splitlines())
    if path.startswith(MESSAGES):
        return b"event: error\ndata: " + line + b"\n\n"
    if path.startswith(RESPONSES):
        told = {"type": "error", "sequence_number": 0, **_facts(body)}
        return b"event: error\ndata: " + _encode(told) + b"\n\n"
    return b"data: " + line + b"\n\n" + DONE


def _facts(body: bytes) -> Mapping[str, Any]:
    try:
        error = msgspec.json.decode(body)["error"]
        return {name: error.get(name) for name in ("code", "message", "param")}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {"code": None, "message": body.decode(errors="replace"), "param": None}
