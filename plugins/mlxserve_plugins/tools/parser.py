"""Split a reply that streams into content, thinking and tool calls."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import OutputDelta
from mlxserve_plugins.tools.calls import calls_in
from mlxserve_plugins.tools.states import NORMAL, REASONING, TOOL, States


@define(eq=False)
class ReplyParser:
    """Reads one choice. How the text is cut into pieces changes nothing of what comes out.

    Held back is only what may be the start of a marker, white space that may stand before one,
    and an open call. White space next to a marker goes with it. What looked like a call and is none
    is content, markers and all.

    Attributes:
        states: What can follow what.
        tools: The request's tools.
        reasoning: Whether the reply begins within the thinking.
    """

    states: States
    tools: Sequence[Mapping[str, Any]] | None
    reasoning: bool = False
    _state: str = field(init=False)
    _held: str = ""
    _space: str = ""
    _after_marker: bool = field(init=False)
    _call: str = ""
    _call_start: str = ""
    _call_from: str = NORMAL
    _content: list[str] = field(factory=list)
    _thoughts: list[str] = field(factory=list)
    _calls: list[Mapping[str, Any]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Begin where the prompt ended."""
        self._state = REASONING if self.reasoning else self.states.initial
        self._after_marker = self.reasoning

    def feed(self, text: str) -> OutputDelta:
        """Take the next piece of text and return what became certain."""
        self._held += text
        while (found := _first_marker(self._held, self._edges)) is not None:
            start, marker, to = found
            before, self._held = self._held[:start], self._held[start + len(marker) :]
            self._say(before)
            self._cross(marker, to)
        keep = _held_back(self._held, self._edges)
        certain, self._held = self._held[: len(self._held) - keep], self._held[-keep:] * (keep > 0)
        self._say(certain)
        return self._take()

    def finish(self) -> OutputDelta:
        """Return what was held back; the reply has ended."""
        self._say(self._held)
        self._held = ""
        if self._state == TOOL:
            self._close_call("", NORMAL)
        self._tell(self._space)
        self._space = ""
        return self._take()

    @property
    def _edges(self) -> Sequence[tuple[str, str]]:
        return self.states.edges.get(self._state, ())

    def _say(self, text: str) -> None:
        """Take certain text of the present state; hold back the white space at its end."""
        if self._state == TOOL:
            self._call += text
            return
        text = self._space + text
        if self._after_marker:
            text = text.lstrip()
        bare = text.rstrip()
        self._space = text[len(bare) :]
        if bare:
            self._after_marker = False
            self._tell(bare)

    def _tell(self, text: str) -> None:
        (self._thoughts if self._state == REASONING else self._content).append(text)

    def _cross(self, marker: str, to: str) -> None:
        if self._state == TOOL:
            self._close_call(marker, to)
        elif to == TOOL:
            self._call, self._call_start, self._call_from = "", marker, self._state
            self._state = TOOL
        else:
            self._state, self._space, self._after_marker = to, "", True

    def _close_call(self, marker: str, to: str) -> None:
        calls = calls_in(self._call, self.tools, self.states.read_call)
        if calls is None:
            self._state = self._call_from
            self._tell(self._space + self._call_start + self._call + marker)
            self._space, self._after_marker = "", False
            return
        self._calls += calls
        self._state, self._space, self._after_marker = to, "", True

    def _take(self) -> OutputDelta:
        made = OutputDelta(
            content="".join(self._content),
            reasoning="".join(self._thoughts),
            tool_calls=tuple(self._calls),
        )
        self._content, self._thoughts, self._calls = [], [], []
        return made


def _first_marker(text: str, edges: Sequence[tuple[str, str]]) -> tuple[int, str, str] | None:
    """Return where the marker starts that is complete first, the marker and where it leads.

    Of two that end together, the longer one.
    """
    found = [(text.find(marker), marker, to) for marker, to in edges]
    ends = [(at + len(marker), at, marker, to) for at, marker, to in found if at >= 0]
    return min(ends)[1:] if ends else None


def _held_back(text: str, edges: Sequence[tuple[str, str]]) -> int:
    """Return how much of the end of ``text`` may be the start of a marker."""
    most = min(len(text), max((len(marker) - 1 for marker, _ in edges), default=0))
    for length in range(most, 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker, _ in edges):
            return length
    return 0
