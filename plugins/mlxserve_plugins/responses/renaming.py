"""Refusals and notes of what this API shares with chat requests, in this API's names."""

import re
from typing import Final

from attrs import evolve

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.surface.notes import Notes

NAMES: Final = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_tokens", "max_output_tokens"),
    ("messages", "input"),
)


def renamed(error: RequestError) -> RequestError:
    """Return the error with the names that this API's clients know."""
    message = error.message
    for theirs, ours in NAMES:
        message = re.sub(rf"`{re.escape(theirs)}(?=[`.\[])", f"`{ours}", message)
    param = None if error.param is None else _name(error.param)
    return evolve(error, message=message, param=param)


def retell(noted: Notes, notes: Notes) -> None:
    """Add what was ``noted`` of fields by their names in chat requests."""
    for note in noted.taken:
        notes.add(_name(note.field), note.how, note.detail)


def _name(param: str) -> str:
    for theirs, ours in NAMES:
        if re.match(rf"{re.escape(theirs)}(?=$|[.\[])", param):
            return ours + param[len(theirs) :]
    return param
