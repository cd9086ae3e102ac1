"""Refusals of what this API shares with chat requests, in this API's names."""

import re
from typing import Final

from attrs import evolve

from mlxserve_hookspecs import RequestError

NAMES: Final = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_tokens", "max_output_tokens"),
    ("messages", "input"),
)


def renamed(error: RequestError) -> RequestError:
    """Return the error with the names that this API's clients know."""
    message, param = error.message, error.param
    for theirs, ours in NAMES:
        message = re.sub(rf"`{re.escape(theirs)}(?=[`.\[])", f"`{ours}", message)
        if param is not None and re.match(rf"{re.escape(theirs)}(?=$|[.\[])", param):
            param = ours + param[len(theirs) :]
    return evolve(error, message=message, param=param)
