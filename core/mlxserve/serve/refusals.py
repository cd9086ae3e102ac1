"""Every refusal of a request in the log and in the figures: once, with its reason, no content."""

import logging
import re
from collections.abc import Callable
from typing import Final

import structlog

from mlxserve_hookspecs import RequestError, hookimpl

log = structlog.get_logger("mlxserve.requests")

TellRefused = Callable[[int, str, str], None]

FIELD: Final = re.compile(r"[a-z_]+(\[\])?(\.[a-z_]+(\[\])?)*")
INDEX: Final = re.compile(r"\[[^]]*\]")
LONGEST: Final = 64
MADE_UP: Final = frozenset({"unknown_parameter", "duplicate_key"})
"""Reasons whose field is a name that the client made up."""

OTHER: Final = "other"
SERVER_ERRORS: Final = 500
UNAVAILABLE: Final = 503


class RefusalLog:
    """Registered with the plugins by the server, so that every refusal is logged once."""

    @hookimpl
    def request_refused(self, status: int, code: str, field: str) -> None:
        """Log it; which request it was, the context says."""
        level = logging.WARNING if status >= SERVER_ERRORS else logging.INFO
        facts = {"field": field} if field else {}
        log.log(level, "request refused", status=status, reason=code, **facts)


def tell_once(tell: TellRefused, error: RequestError) -> None:
    """Tell the plugins of a refusal that nobody has told them of yet.

    What failed in the server (500) is logged with its traceback, and is no refusal.
    """
    refused = error.status < SERVER_ERRORS or error.status == UNAVAILABLE
    if refused and not error.told:
        tell(error.status, error.code or error.kind, field_of(error))


def field_of(error: RequestError) -> str:
    """Return the field at fault without indexes, and without what the client made up."""
    if not error.param:
        return ""
    if error.code in MADE_UP:
        return OTHER
    name = INDEX.sub("[]", error.param)
    return name if len(name) <= LONGEST and FIELD.fullmatch(name) else OTHER
