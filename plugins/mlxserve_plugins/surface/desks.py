"""What an endpoint does before and after its work: who asks, which fields, what was noted."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from attrs import define, field
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State

from mlxserve_hookspecs import Credentials, RequestError, Services
from mlxserve_plugins.guarding import setting
from mlxserve_plugins.surface.fields import Table
from mlxserve_plugins.surface.notes import Desk, Notes
from mlxserve_plugins.surface.transport import notes_of

AnyRequest = Request[Any, Any, State]
AnyConnection = ASGIConnection[Any, Any, Any, State]
Guard = Callable[[AnyConnection, Any], Coroutine[Any, Any, None]]


class HasTable(Protocol):
    """A body whose fields are in a table."""

    TABLE: ClassVar[Table]


@define(eq=False)
class Desks:
    """Takes bodies in by their tables. Lives on the event loop.

    Attributes:
        services: Who authenticates, and who is told.
        tables: Of the bodies that it takes.
    """

    services: Services
    tables: Sequence[Table]
    desks: Mapping[str, Desk] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make a desk for each table."""
        mode = setting(self.services, "server", "unknown_fields", "warn")
        tell = self.services.tell_adjusted
        self.desks = {table.surface: Desk(table.surface, tell, mode) for table in self.tables}

    def guard(self) -> Guard:
        """Return a guard that finds out who asks, before anything else is looked at.

        A function, not a method: Litestar makes deep copies of guards, and with them of their self.
        """
        services = self.services

        async def authenticate(connection: AnyConnection, _: Any) -> None:
            client = connection.client
            credentials = Credentials(
                headers=dict(connection.headers.items()),
                path=connection.url.path,
                client=client.host if client else "",
            )
            connection.state.tenant = services.admission.authenticate(credentials).tenant

        return authenticate

    def noted(self, body: HasTable, request: AnyRequest) -> Notes:
        """Return what was noted of a body so far, if that is to be let through."""
        notes = notes_of(request)
        self.desks[body.TABLE.surface].check_unknown(notes.taken)
        return notes

    def file(self, body: HasTable, request: AnyRequest, notes: Notes) -> None:
        """Log and count what a request is served without."""
        peer = request.client.host if request.client else ""
        self.desks[body.TABLE.surface].file(notes.taken, request.state.tenant or peer)


def present(data: Any) -> Any:
    """Return a body that is there.

    Raises:
        RequestError: It is not (status 400).
    """
    if data is None:
        message = "the request body is empty: send a JSON object"
        raise RequestError(status=400, message=message, code="invalid_json")
    return data
