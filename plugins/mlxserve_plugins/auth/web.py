"""What web browsers are told of other origins, and by which names the server is called."""

from collections.abc import Collection, Sequence
from typing import Final

from litestar.config.app import AppConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Middleware, Receive, Scope, Send

from mlxserve_hookspecs import RequestError

READABLE: Final = ("Retry-After",)
"""Headers that a page of another origin may read."""

UNTRUSTED = RequestError(
    status=403,
    message="the server is not called by that host name; its --allowed-hosts names those it has",
    code="host_not_allowed",
)


def allow_origins(config: AppConfig, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` call the API; they have to send the key as everybody."""
    config.cors_config = CORSConfig(allow_origins=list(origins), expose_headers=list(READABLE))


def trust_hosts(config: AppConfig, hosts: Sequence[str], probes: Collection[str]) -> None:
    """Refuse requests that call the server by other names, but for probes.

    Litestar's own check takes the port for a part of the name.
    """

    def middleware(app: ASGIApp) -> ASGIApp:
        async def check(scope: Scope, receive: Receive, send: Send) -> None:
            host = Headers.from_scope(scope).get("host", "")
            if scope["path"] not in probes and not is_trusted(host, hosts):
                raise UNTRUSTED
            await app(scope, receive, send)

        return check

    checks: list[Middleware] = [middleware]
    config.middleware = [*checks, *config.middleware]


def is_trusted(header: str, hosts: Sequence[str]) -> bool:
    """Return whether a ``Host`` header names one of ``hosts``; ``*.x`` is any name below ``x``."""
    name = host_name(header)
    return any(
        name.endswith(host[1:].lower()) if host.startswith("*.") else name == host.lower()
        for host in hosts
    )


def host_name(header: str) -> str:
    """Return a ``Host`` header's name without its port, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()
