"""Every error of these paths in Anthropic's shape, with the words that clients look for."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.anthropic.answers import ErrorBody, ErrorInfo

PREFIX: Final = "/v1/messages"
KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)
SERVER_ERRORS: Final = 500


def error_body(status: int, message: str, request_id: str | None = None) -> ErrorBody:
    """Return the body that tells a client of an error."""
    otherwise = "api_error" if status >= SERVER_ERRORS else "invalid_request_error"
    return ErrorBody(ErrorInfo(KINDS.get(status, otherwise), message), request_id)


def shaped(status: int, error: Mapping[str, Any]) -> ErrorBody:
    """Return the server's own error in this shape."""
    return error_body(status, str(error["message"]))


def too_long(tokens: int, most: int) -> RequestError:
    """Return the refusal of a prompt, in the words by which clients know that they must compact."""
    return RequestError(
        status=400,
        message=f"prompt is too long: {tokens} tokens > {most} maximum",
        param="messages",
        code="context_length_exceeded",
    )
