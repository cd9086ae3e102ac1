"""Every error of the HTTP application in the one shape that clients of such APIs know."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from mlxserve.door import Caller, PluginCrashError
from mlxserve.serve.refusals import TellRefused, tell_once
from mlxserve_hookspecs import RequestError

AnyRequest: TypeAlias = Request[Any, Any, Any]

log = structlog.get_logger("mlxserve.serve")

OWNER: Final = "mlxserve_plugin"
"""The key of a route's ``opt`` that has the name of the plugin which added it."""

NOBODY: Final[Mapping[str, Caller]] = MappingProxyType({})

BUG: Final = RequestError(
    status=500, message="the server failed to answer this request; its log says why"
)


def answer_refusal(_: AnyRequest, error: RequestError) -> Response[Any]:
    """Answer a request that was refused or that failed in the engine."""
    info = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    return Response({"error": info}, status_code=error.status, headers=error.headers)


def as_refusal(request: AnyRequest, error: HTTPException) -> RequestError:
    """Return what the HTTP layer refused in words: path, method, size, headers."""
    message, code = _words(request, error)
    return RequestError(status=error.status_code, message=message, code=code)


def owned(route: Any, plugin: str) -> Any:
    """Return a plugin's route, which says from now on whose it is."""
    said = route.opt if isinstance(route.opt, Mapping) else {}  # a controller may have said nothing
    route.opt = {**said, OWNER: plugin}
    return route


def answer_bug(
    request: AnyRequest, error: Exception, owners: Mapping[str, Caller]
) -> Response[Any]:
    """Answer a bug: the traceback goes to the log, and nothing of it to the client."""
    facts = {"method": str(request.method), "path": request.scope["path"]}
    log.error("request failed", **facts, **blamed(request.scope, error, owners), exc_info=error)
    return answer_refusal(request, BUG)


def blamed(scope: Any, error: BaseException, owners: Mapping[str, Caller]) -> dict[str, str]:
    """Count a failure of the plugin whose route it is; return what the log is to say of it.

    What is counted as another plugin's already is not counted again.
    """
    route: Any = scope.get("route_handler")
    who = owners.get(route.opt.get(OWNER, "")) if route is not None else None
    if who is None or not isinstance(error, Exception) or isinstance(error, PluginCrashError):
        return {}
    who.failed(error, quiet=True)
    return {"culprit": who.owner}


def make_handlers(tell: TellRefused, owners: Mapping[str, Caller] = NOBODY) -> ExceptionHandlersMap:
    """Return the application's handlers.

    Args:
        tell: Told of each refusal that nobody was told of yet: status, reason and field.
        owners: The plugins that routes may be of, by name.
    """

    def refuse(request: AnyRequest, error: RequestError) -> Response[Any]:
        tell_once(tell, error)
        return answer_refusal(request, error)

    def refuse_http(request: AnyRequest, error: HTTPException) -> Response[Any]:
        refusal = as_refusal(request, error)
        tell_once(tell, refusal)
        answer = answer_refusal(request, refusal)
        answer.headers.update(error.headers or {})
        return answer

    def admit_bug(request: AnyRequest, error: Exception) -> Response[Any]:
        return answer_bug(request, error, owners)

    return {RequestError: refuse, HTTPException: refuse_http, Exception: admit_bug}


def _words(request: AnyRequest, error: HTTPException) -> tuple[str, str | None]:
    path = request.scope["path"]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is no {path} on this server", "not_found"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("allow", "another method")
        return f"{request.method} is not allowed for {path}: use {allowed}", "method_not_allowed"
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "the request body is larger than this server accepts", "request_too_large"
    return error.detail or HTTPStatus(error.status_code).phrase, None
