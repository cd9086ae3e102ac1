"""An error as a stream tells it; what is no stream is answered by the server, in the same shape."""

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.answers import ErrorBody, ErrorInfo


def error_body(error: RequestError) -> ErrorBody:
    """Return the body that tells a client of ``error``."""
    return ErrorBody(ErrorInfo(error.message, error.kind, error.param, error.code))
