"""A surface's own shape for every error of its paths, whoever raises it."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import structlog
from litestar import Request, Response

from mlxserve_hookspecs import AppConfig, RequestError

INTERNAL: Final = RequestError(
    status=500, message="the server failed to answer this request; its log says why"
)
Shape: TypeAlias = Callable[[int, Mapping[str, Any]], Any]
"""Takes status and error (``message``, ``type``, ``param``, ``code``); returns the body."""

Handler: TypeAlias = Callable[[Request[Any, Any, Any], Any], Response[Any]]


def shape_errors(config: AppConfig, prefix: str, shape: Shape) -> None:
    """Give every error of the paths under ``prefix`` a shape; to be called in ``configure_app``.

    That is so for 404, 405, 413 and the like of the HTTP layer, for what ``authenticate`` and
    ``admit`` refuse, and for bugs too. The application's own handlers decide, log and count; the
    body that they answer with is put in other words.

    Args:
        config: The application's.
        prefix: ``/v1/messages`` is that path and all below it.
        shape: Makes the body.
    """
    config.exception_handlers = {
        kind: _reshaping(handler, prefix.rstrip("/"), shape)
        for kind, handler in config.exception_handlers.items()
    }


def logged(error: Exception, path: str) -> RequestError:
    """Log a bug with its traceback; return what the client may know of it."""
    structlog.get_logger().error("request failed", path=path, exc_info=error)
    return INTERNAL


def _reshaping(handler: Handler, prefix: str, shape: Shape) -> Handler:
    def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
        told = handler(request, error)
        path = request.scope["path"]
        found = told.content.get("error") if isinstance(told.content, Mapping) else None
        if (path == prefix or path.startswith(f"{prefix}/")) and isinstance(found, Mapping):
            told.content = shape(told.status_code or INTERNAL.status, found)
        return told

    return answer
