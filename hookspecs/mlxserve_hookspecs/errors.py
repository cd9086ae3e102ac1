"""Errors with a meaning on both sides of a hook. Anything else is a bug and keeps its traceback."""

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

KINDS: Final = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
)
SERVER_ERRORS: Final = 500
UNAUTHORIZED: Final = 401


class MlxserveError(Exception):
    """A mistake that a user can mend: shown as one line, without a traceback, exit status 2."""


class PluginError(MlxserveError):
    """A plugin is missing, broken or contradicts another."""


class SettingError(MlxserveError):
    """An option has a value it cannot have, or a name that nobody knows."""


class ModelError(MlxserveError):
    """A model reference leads nowhere, or what it leads to cannot be used."""


@frozen(kw_only=True)
class RequestError(Exception):
    """A request that is refused or that failed; an API surface turns it into its own error body.

    Attributes:
        status: The HTTP status: 400, 401, 403, 404, 409, 413, 422, 429, 500, 503 or
            504.
        message: What is wrong and, where there is one, what to do; for the client's eyes.
        param: The request field at fault, if one is.
        code: A short machine-readable word, for example ``context_length_exceeded``.
        retry_after: Seconds after which a retry is worth while; sent with 429 and 503.
        told: Whether it was logged and counted already, by ``request_refused`` or as the end of a
            reply: whoever answers with it tells of it otherwise.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    told: bool = field(default=False, eq=False, repr=False)

    @property
    def kind(self) -> str:
        """The class of error that an error body names as its ``type``."""
        if self.status >= SERVER_ERRORS:
            return "server_error"
        return KINDS.get(self.status, "invalid_request_error")

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer: when to retry, in whole seconds; how to authenticate."""
        found = {}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(ceil(self.retry_after), 1))
        if self.status == UNAUTHORIZED:
            found["WWW-Authenticate"] = "Bearer"
        return found

    def __str__(self) -> str:
        return self.message
