"""Every error as OpenAI shapes it: body, status, headers."""

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import structlog
from litestar import Request, Response
from litestar.config.app import AppConfig
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.answers import ErrorBody, ErrorInfo

PATHS = ("/v1", "/tokenize", "/detokenize")
"""Where errors are OpenAI-shaped."""

AnyRequest: TypeAlias = Request[Any, Any, Any]
Handler: TypeAlias = Callable[[AnyRequest, Any], Response[Any]]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}

INTERNAL = RequestError(
    status=500, message="the server failed to answer this request; its log says why"
)


def error_body(error: RequestError) -> ErrorBody:
    """Return the body that tells a client of ``error``."""
    server = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "server_error" if server else _TYPES.get(error.status, "invalid_request_error")
    return ErrorBody(ErrorInfo(error.message, kind, error.param, error.code))


def error_response(error: RequestError) -> Response[ErrorBody]:
    """Return the whole response that tells a client of ``error``."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(math.ceil(error.retry_after), 1))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(error), status_code=error.status, headers=headers)


def logged(error: Exception, path: str) -> RequestError:
    """Log a bug with its traceback; return what the client may know of it."""
    structlog.get_logger().error("request failed", path=path, exc_info=error)
    return INTERNAL


def refused(_: AnyRequest, error: RequestError) -> Response[ErrorBody]:
    """Answer a request that was refused or that failed in the engine."""
    return error_response(error)


def failed(request: AnyRequest, error: Exception) -> Response[ErrorBody]:
    """Answer a request that met a bug."""
    return error_response(logged(error, request.url.path))


def not_served(request: AnyRequest, error: HTTPException) -> Response[ErrorBody]:
    """Answer what the HTTP layer refused: path, method, size, headers."""
    message, code = _words(request, error)
    answer = error_response(RequestError(status=error.status_code, message=message, code=code))
    if error.headers:
        answer.headers.update(error.headers)
    return answer


HANDLERS: ExceptionHandlersMap = {
    RequestError: refused,
    HTTPException: not_served,
    Exception: failed,
}


def shape_routing_errors(config: AppConfig) -> None:
    """Shape the errors of paths and methods that no route has; leave other paths' errors alone.

    The HTTP layer refuses those before it knows which router they were meant for.
    """
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        others = _handler_for(config.exception_handlers, status)
        config.exception_handlers[int(status)] = _choose(others)


def _handler_for(handlers: ExceptionHandlersMap, status: int) -> Handler | None:
    return handlers.get(status) or handlers.get(HTTPException) or handlers.get(Exception)


def _choose(others: Handler | None) -> Handler:
    def handle(request: AnyRequest, error: HTTPException) -> Response[Any]:
        path = request.url.path
        if any(path == ours or path.startswith(f"{ours}/") for ours in PATHS):
            return not_served(request, error)
        if others is not None:
            return others(request, error)
        return Response({"detail": error.detail}, status_code=error.status_code)

    return handle


def _words(request: AnyRequest, error: HTTPException) -> tuple[str, str | None]:
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is no {path} on this server", "not_found"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("allow", "another method")
        return f"{request.method} is not allowed for {path}: use {allowed}", "method_not_allowed"
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "the request body is larger than this server accepts", "request_too_large"
    return error.detail or HTTPStatus(error.status_code).phrase, None
