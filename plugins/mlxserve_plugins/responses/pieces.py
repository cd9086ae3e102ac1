"""Whether a call came whole."""

import json


def is_whole(arguments: str) -> bool:
    """Return whether a call's arguments were not cut: they are JSON."""
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True
