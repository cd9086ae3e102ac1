"""Ask who is there before a route of ours answers."""

from collections.abc import Callable
from typing import Any, TypeAlias

from mlxserve_hookspecs import Credentials, Services

Guard: TypeAlias = Callable[[Any, Any], None]
"""What Litestar takes as a guard: called with the connection and its route handler."""


def guard(services: Services) -> Guard:
    """Return a guard that lets in whom the active plugins let in."""

    def authenticate(connection: Any, _: Any) -> None:
        client = connection.client
        credentials = Credentials(
            headers=dict(connection.headers.items()),
            path=connection.url.path,
            client=client.host if client else "",
        )
        services.admission.authenticate(credentials)

    return authenticate


def setting(services: Services, section: str, name: str, otherwise: Any) -> Any:
    """Return the value of a setting that belongs to somebody else.

    Args:
        services: Knows all settings.
        section: The core's section or the plugin.
        name: The option.
        otherwise: The answer where there is no such option, for its plugin is not active.
    """
    for its_section, its_name, value, _ in services.settings():
        if (its_section, its_name) == (section, name):
            return value
    return otherwise
