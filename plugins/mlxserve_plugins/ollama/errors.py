"""Every error of these paths in Ollama's shape: one word for it all."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from litestar import Request, Response
from litestar.config.app import AppConfig

PREFIX: Final = "/api/"

Handler: TypeAlias = Callable[[Request[Any, Any, Any], Any], Response[Any]]


def shape_errors(config: AppConfig) -> None:
    """Let the application's own handlers decide, and reshape what they say on these paths."""
    config.exception_handlers = {
        kind: _reshaping(handler) for kind, handler in config.exception_handlers.items()
    }


def _reshaping(handler: Handler) -> Handler:
    def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
        told = handler(request, error)
        found = told.content.get("error") if isinstance(told.content, Mapping) else None
        if request.scope["path"].startswith(PREFIX) and isinstance(found, Mapping):
            told.content = {"error": found["message"]}
        return told

    return answer
