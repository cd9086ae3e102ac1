"""An error as a stream tells it; what is no stream is answered by the server, in the same shape."""

import structlog

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.answers import ErrorBody, ErrorInfo

INTERNAL = RequestError(
    status=500, message="the server failed to answer this request; its log says why"
)


def error_body(error: RequestError) -> ErrorBody:
    """Return the body that tells a client of ``error``."""
    return ErrorBody(ErrorInfo(error.message, error.kind, error.param, error.code))


def logged(error: Exception, path: str) -> RequestError:
    """Log a bug with its traceback; return what the client may know of it."""
    structlog.get_logger().error("request failed", path=path, exc_info=error)
    return INTERNAL
