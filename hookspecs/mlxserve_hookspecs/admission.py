"""Hooks that decide whether a request gets in."""

from collections.abc import Mapping
from typing import Protocol

from attrs import field, frozen

from mlxserve_hookspecs.engine import EngineStatus
from mlxserve_hookspecs.errors import RequestError
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.requests import GenerationRequest


@frozen(kw_only=True)
class Credentials:
    """What a client presented.

    Attributes:
        headers: Header values by lower-case name; not to be logged.
        path: The request's path.
        client: The peer's address.
    """

    headers: Mapping[str, str] = field(repr=False)
    path: str
    client: str = ""


@frozen
class Identity:
    """Who asks: a name for limits and logs, never a secret."""

    tenant: str = ""


class Admission(Protocol):
    """The two questions, as a route asks them. Runs on the event loop; does not wait."""

    def authenticate(self, credentials: Credentials) -> Identity:
        """Return who asks.

        Raises:
            RequestError: Nobody who may (status 401 or 403).
        """

    def admit(self, request: GenerationRequest) -> None:
        """Return if ``request`` may be submitted now.

        Raises:
            RequestError: It may not (status 429 or 503, with ``retry_after``).
        """


@hookspec(firstresult=True)
def authenticate(credentials: Credentials) -> Identity | RequestError | None:
    """Say who asks, or refuse.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass. With no answer at all
    everybody is welcome as nobody in particular.

    Called once per HTTP request that needs it, on the event loop: must not block. A plugin that
    raises, or answers with something else, lets nobody in: the request ends with status 500.
    """


@hookspec(firstresult=True)
def admit(request: GenerationRequest, status: EngineStatus) -> RequestError | None:
    """Refuse a request that the server cannot take now.

    **Ask.** The first refusal counts; return ``None`` to let it pass.

    Called once per request, on the event loop, before it is submitted: must not block. A plugin
    that raises, or answers with something else, lets the request not in (status 500).
    """
