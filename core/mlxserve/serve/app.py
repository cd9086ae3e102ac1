"""The HTTP application: what the plugins add, in a frame that bounds and answers for it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import ceil
from types import MappingProxyType
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.config.app import AppConfig
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, ScalarRenderPlugin, SwaggerRenderPlugin

from mlxserve.hooks import ask, gather, tell
from mlxserve.resolved import Resolved
from mlxserve.serve.admission import HookAdmission
from mlxserve.serve.service import Service
from mlxserve_hookspecs import (
    PROJECT,
    OutputParser,
    RequestError,
    Services,
    TextCodec,
    generation,
    serving,
)

log = structlog.get_logger("mlxserve.serve")


def build_app(resolved: Resolved, service: Service) -> Litestar:
    """Return the application of a run: the plugins' routes, then their changes to it.

    Raises:
        PluginError: A plugin failed to add its routes.
    """
    services = services_of(resolved, service)
    added = gather(resolved.plugins, serving.routes)(services=services)
    config = AppConfig(
        route_handlers=[route for routes in added for route in routes],
        request_max_body_size=resolved.server.max_request_bytes,
        exception_handlers={
            RequestError: answer_refusal,
            HTTPException: answer_http_error,
            Exception: answer_bug,
        },
        openapi_config=OpenAPIConfig(
            title=PROJECT,
            version=version(PROJECT),
            path="/schema",
            render_plugins=[ScalarRenderPlugin(), SwaggerRenderPlugin(), JsonRenderPlugin()],
        ),
    )
    tell(resolved.plugins, serving.configure_app)(config=config)
    return Litestar.from_config(config)


def services_of(resolved: Resolved, service: Service) -> Services:
    """Return what the plugins' routes may use."""
    engine = service.client
    parser = ask(resolved.plugins, generation.make_output_parser)

    def make_parser(
        text: TextCodec, tools: Sequence[Mapping[str, Any]] | None, reasoning: bool
    ) -> OutputParser | None:
        return parser(text=text, tools=tools, reasoning=reasoning)

    return Services(
        engine=engine,
        admission=HookAdmission(resolved.plugins, lambda: engine.status),
        settings=lambda: resolved.rows,
        plugins=resolved.names,
        clear_cache=service.clear_cache,
        cache_stats=service.cache_stats,
        make_parser=make_parser,
    )


def answer_refusal(_: Request[Any, Any, Any], error: RequestError) -> Response[Any]:
    """Answer a refused request, with ``Retry-After`` where it has one."""
    headers = {} if error.retry_after is None else {"Retry-After": str(ceil(error.retry_after))}
    return _answer(error.status, error.message, param=error.param, code=error.code, more=headers)


def answer_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Answer what Litestar refused: an unknown path, a body that is too large."""
    return _answer(error.status_code, error.detail, more=error.headers or {})


def answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer a bug: the traceback goes to the log, and nothing of it to the client."""
    path = request.scope["path"]
    log.error("request failed", method=str(request.method), path=path, exc_info=error)
    return _answer(500, "the server failed to handle this request")


def _answer(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Response[Any]:
    body = {"error": {"message": message, "param": param, "code": code}}
    return Response(body, status_code=status, headers=dict(more), media_type="application/json")
