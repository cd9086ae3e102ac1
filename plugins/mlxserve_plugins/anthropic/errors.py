"""Every error of these paths in Anthropic's shape, with the words that clients look for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from litestar import Request, Response
from litestar.config.app import AppConfig

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

Handler: TypeAlias = Callable[[Request[Any, Any, Any], Any], Response[Any]]


def error_body(status: int, message: str, request_id: str | None = None) -> ErrorBody:
    """Return the body that tells a client of an error."""
    otherwise = "api_error" if status >= SERVER_ERRORS else "invalid_request_error"
    return ErrorBody(ErrorInfo(KINDS.get(status, otherwise), message), request_id)


def shape_errors(config: AppConfig) -> None:
    """Let the application's own handlers decide, and reshape what they say on these paths."""
    config.exception_handlers = {
        kind: _reshaping(handler) for kind, handler in config.exception_handlers.items()
    }


def too_long(tokens: int, most: int) -> RequestError:
    """Return the refusal of a prompt, in the words by which clients know that they must compact."""
    return RequestError(
        status=400,
        message=f"prompt is too long: {tokens} tokens > {most} maximum",
        param="messages",
        code="context_length_exceeded",
    )


def _reshaping(handler: Handler) -> Handler:
    def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
        told = handler(request, error)
        if not _is_ours(request.scope["path"]) or not isinstance(told.content, Mapping):
            return told
        told.content = error_body(told.status_code or 500, str(told.content["error"]["message"]))
        return told

    return answer


def _is_ours(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")
