"""What a request is served without, or otherwise than it says: logged once, counted always."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

import structlog
from attrs import define, field, frozen

from mlxserve_hookspecs import RequestError

How: TypeAlias = Literal["ignored", "clamped", "read as off", "read as another"]
UnknownFields: TypeAlias = Literal["refuse", "warn", "ignore"]

UNKNOWN: Final = "unknown"
"""What plugins are told instead of a name that a client made up."""

LONGEST_NAME: Final = 64
MOST_SEEN: Final = 4096

log = structlog.get_logger("mlxserve.requests")


@frozen
class Note:
    """One thing that was not taken by its word.

    Attributes:
        field: The field's name, as the client wrote it.
        how: What was done.
        detail: A word more for the log, never of the request's content.
        known: Whether the surface has a field of that name.
    """

    field: str
    how: How
    detail: str = ""
    known: bool = True


@define(eq=False)
class Notes:
    """What was noted of one request."""

    taken: list[Note] = field(factory=list)

    def add(self, name: str, how: How, detail: str = "") -> None:
        """Note that the known field ``name`` was not taken by its word; once is enough."""
        if not any((note.field, note.how) == (name, how) for note in self.taken):
            self.taken.append(Note(name, how, detail))

    def unknown(self, name: str) -> None:
        """Note that nobody knows ``name``."""
        self.taken.append(Note(name, "ignored", "unknown", known=False))


@define(eq=False)
class Desk:
    """Files a surface's notes. Lives on the event loop.

    Attributes:
        surface: The surface's name.
        tell: Tells the plugins, as ``Services.tell_adjusted`` does.
        unknown_fields: What becomes of fields that the surface does not know.
    """

    surface: str
    tell: Callable[[str, str, str], None]
    unknown_fields: UnknownFields = "warn"
    _seen: OrderedDict[tuple[str, str, str], None] = field(factory=OrderedDict)

    def file(self, notes: Iterable[Note], client: str) -> None:
        """Count each note, and log those that are new of this client.

        Args:
            notes: What was done.
            client: Who asked: a name or an address, never a secret.
        """
        for note in notes:
            self.tell(self.surface, note.field if note.known else UNKNOWN, note.how)
            if (note.known or self.unknown_fields != "ignore") and self._is_new(note, client):
                self._log(note, client)

    def check_unknown(self, notes: Iterable[Note]) -> None:
        """Return unless a field is unknown and such are to be refused.

        Raises:
            RequestError: One is (status 400).
        """
        if self.unknown_fields != "refuse":
            return
        for note in notes:
            if not note.known:
                message = f"unknown field `{note.field}`"
                code = "unknown_parameter"
                raise RequestError(status=400, message=message, param=note.field, code=code)

    def _is_new(self, note: Note, client: str) -> bool:
        key = (client, note.field[:LONGEST_NAME], note.how)
        is_new = key not in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return is_new

    def _log(self, note: Note, client: str) -> None:
        log.log(
            logging.INFO if note.known else logging.WARNING,
            "request field adjusted",
            surface=self.surface,
            field=note.field[:LONGEST_NAME],
            how=note.how,
            client=client,
            **({"detail": note.detail} if note.detail else {}),
        )
