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
    most = min(len(text), max((len(marker) - 1 for marker, _ in edges), default=0))
    for length in range(most, 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker, _ in edges):
            return length
    return 0
