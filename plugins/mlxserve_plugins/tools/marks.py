"""Find markers in text that arrives in pieces."""

from collections.abc import Sequence


def first_marker(text: str, edges: Sequence[tuple[str, str]]) -> tuple[int, str, str] | None:
    """Return where the marker starts that is complete first, the marker and where it leads.

    Of two that end together, the longer one.
    """
    found = [(text.find(marker), marker, to) for marker, to in edges]
    ends = [(at + len(marker), at, marker, to) for at, marker, to in found if at >= 0]
    return min(ends)[1:] if ends else None


def held_back(text: str, edges: Sequence[tuple[str, str]]) -> int:
    """Return how much of the end of ``text`` may be the start of a marker."""
    most = 0
    for marker, _ in edges:
        size = min(len(text), len(marker) - 1)
        at = text.find(marker[0], len(text) - size)
        while at >= 0 and not marker.startswith(text[at:]):
            at = text.find(marker[0], at + 1)
        if at >= 0:
            most = max(most, len(text) - at)
    return most
