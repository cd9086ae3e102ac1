"""Split a reply that streams into content, thinking and tool calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from mlxserve_hookspecs import Markup, OutputDelta
from mlxserve_plugins.tools.either import Script
from mlxserve_plugins.tools.marks import first_marker, held_back
from mlxserve_plugins.tools.told import Kind, Told

NORMAL: Final = "normal"
REASONING: Final = "reasoning"
TOOL: Final = "tool"

Tools: TypeAlias = Sequence[Mapping[str, Any]] | None
MakeScript: TypeAlias = Callable[[Tools], Script]
Edges: TypeAlias = Mapping[str, tuple[tuple[str, str], ...]]


@frozen(kw_only=True)
class Grammar:
    """What a parser must know of a model.

    Attributes:
        initial: Where a reply begins.
        edges: The markers that each state knows, and where they lead.
        scripts: What reads a call, by the marker that opens it.
        bare: What reads a call that no marker opens, by its first character.
    """

    initial: str = NORMAL
    edges: Edges
    scripts: Mapping[str, MakeScript]
    bare: Mapping[str, MakeScript]


def grammar_of(
    markup: Markup, scripts: Mapping[str, MakeScript], bare: Mapping[str, MakeScript]
) -> Grammar:
    """Return the states of a model's replies; without scripts nothing is a call."""
    edges: dict[str, list[tuple[str, str]]] = {}

    def add(state: str, marker: str, to: str) -> None:
        if marker and (marker, to) not in edges.setdefault(state, []):
            edges[state].append((marker, to))

    add(NORMAL, markup.think_start, REASONING)
    add(REASONING, markup.think_end, NORMAL)
    for marker in markup.dropped:
        add(NORMAL, marker, NORMAL)
    for state, pairs in markup.transitions.items():
        for marker, to in pairs:
            if to != TOOL or scripts:
                add(state, marker, to)
    own = any(to == TOOL for pairs in markup.transitions.values() for _, to in pairs)
    for marker in scripts:
        if not own:
            add(NORMAL, marker, TOOL)
        if markup.think_start:
            add(REASONING, marker, TOOL)
    fixed = {state: tuple(pairs) for state, pairs in edges.items() if pairs}
    return Grammar(initial=markup.initial, edges=fixed, scripts=scripts, bare=bare)


@define(eq=False)
class ReplyParser:
    """Reads one choice. How the text is cut into pieces changes nothing of what comes out.

    Held back is only what may be the start of a marker, white space that may stand before one,
    and the head of a call. What looked like a call and is none is content, markers and all.

    Attributes:
        grammar: What can follow what.
        tools: The request's tools.
        reasoning: Whether the reply begins within the thinking.
        forced: Whether a constraint makes it a call: what its end cuts is no content.
    """

    grammar: Grammar
    tools: Tools
    reasoning: bool = False
    forced: bool = False
    told: Told = field(factory=Told)
    _state: str = field(init=False)
    _held: str = ""
    _script: Script | None = None
    _marker: str = ""
    _raw: str = ""
    _first: int = 0

    def __attrs_post_init__(self) -> None:
        """Begin where the prompt ended."""
        self._state = REASONING if self.reasoning else self.grammar.initial
        if self.reasoning:
            self.told.mark()

    def feed(self, text: str) -> OutputDelta:
        """Take the next piece of text and return what became certain."""
        self._held += text
        self._run(final=False)
        return self._take()

    def finish(self) -> OutputDelta:
        """Return what was held back; the reply has ended."""
        self._run(final=True)
        if not self.forced:
            self.told.say(self._kind, self._held)
        self._held = ""
        self.told.end(self._kind)
        return self._take()

    @property
    def _kind(self) -> Kind:
        return "reasoning" if self._state == REASONING else "content"

    @property
    def _edges(self) -> Sequence[tuple[str, str]]:
        return self.grammar.edges.get(self._state, ())

    def _take(self) -> OutputDelta:
        return self.told.take(thinking=self._state == REASONING)

    def _run(self, *, final: bool) -> None:
        while self._read_call(final=final) if self._script else self._read_text():
            pass

    def _read_text(self) -> bool:
        """Read up to the next marker; return whether there is one."""
        if self._bare():
            return True
        found = first_marker(self._held, self._edges)
        if found is None:
            keep = held_back(self._held, self._edges)
            if self._may_be_bare and not self._held.strip():
                return False
            certain = self._held[: len(self._held) - keep]
            self._held = self._held[len(certain) :]
            self.told.say(self._kind, certain)
            return False
        start, marker, to = found
        before, self._held = self._held[:start], self._held[start + len(marker) :]
        self.told.say(self._kind, before)
        if to == TOOL:
            self._open(marker, self.grammar.scripts[marker])
        else:
            self._state = to
            self.told.mark()
        return True

    @property
    def _may_be_bare(self) -> bool:
        return bool(self.grammar.bare) and self._state == NORMAL and self.told.fresh

    def _bare(self) -> bool:
        """Open a call that no marker opens, at the very start of what is said."""
        first = self._held.lstrip()[:1]
        if not self._may_be_bare or first not in self.grammar.bare or not first:
            return False
        space = self._held[: self._held.index(first)]
        self.told.say(self._kind, space)
        self._held = self._held[len(space) :]
        self._open("", self.grammar.bare[first])
        return True

    def _open(self, marker: str, make: MakeScript) -> None:
        self._script, self._marker, self._raw = make(self.tools), marker, ""
        self._first = self.told.calls

    def _read_call(self, *, final: bool) -> bool:
        """Read on in the call; return whether it ended."""
        script = self._script
        assert script is not None
        opened = script.opened
        if not opened:
            self._raw += self._held
        script.feed(self._held)
        self._held = ""
        if final:
            script.finish()
        if script.opened and not opened:
            self.told.mark()
        self.told.call(script.take(), self._first)
        if script.status == "open":
            return False
        self._script = None
        if script.status == "broken":
            self._give_back()
        else:
            self.told.broken += script.broken
            self._held, self._raw, self._state = script.rest, "", NORMAL
            if self.forced and final:
                self._held = ""
        return True

    def _give_back(self) -> None:
        """What was read was no call: its marker is text, and so is what follows, unless..."""
        raw, self._raw = self._raw, ""
        if self._marker:
            self.told.broken += 1
        if self.forced:
            return
        # One character of a bare call is text, so that it is not taken for a call again.
        shown = self._marker or raw[:1]
        self.told.say(self._kind, shown)
        self._held = raw if self._marker else raw[1:]
