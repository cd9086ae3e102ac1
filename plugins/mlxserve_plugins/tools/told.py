"""What a reply tells: content, thinking and calls in order, with the white space around marks."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from attrs import define, evolve, field

from mlxserve_hookspecs import OutputDelta, ReplyPart

Kind: TypeAlias = Literal["content", "reasoning"]


@define
class _Voice:
    """Text of one kind.

    Attributes:
        space: White space at its end, held back: a mark may follow.
        marked: Whether a mark stood since its last visible text.
        apart: Whether what follows the mark is a text of its own.
        spoken: Whether any of it was visible.
    """

    space: str = ""
    marked: bool = False
    apart: bool = False
    spoken: bool = False

    def say(self, text: str) -> str:
        """Return what is certain of ``text``."""
        text = self.space + text
        bare = text.strip()
        if not bare:
            self.space = text
            return ""
        body = text.rstrip()
        self.space = text[len(body) :]
        if self.marked:
            # White space around marks survives as one break.
            parted = self.spoken and (self.apart or text[0].isspace())
            body = ("\n" if parted else "") + body.lstrip()
        self.marked, self.apart, self.spoken = False, False, True
        return body


@define(eq=False)
class Told:
    """Collects the parts of a reply."""

    parts: list[ReplyPart] = field(factory=list)
    calls: int = 0
    broken: int = 0
    _voices: dict[Kind, _Voice] = field(
        factory=lambda: {"content": _Voice(), "reasoning": _Voice(marked=True)}
    )
    _open: dict[int, ReplyPart] = field(factory=dict)
    _texts: dict[int, list[str]] = field(factory=dict)

    @property
    def fresh(self) -> bool:
        """Whether no content is visible since the start, or since the last mark."""
        voice = self._voices["content"]
        return not voice.spoken or voice.marked

    def say(self, kind: Kind, text: str) -> None:
        """Tell text; its white space at the end waits."""
        if text and (certain := self._voices[kind].say(text)):
            self.parts.append(ReplyPart(kind=kind, text=certain))

    def mark(self, *, apart: bool = False) -> None:
        """Note that a marker stood here; ``apart`` if it divides texts of their own.

        One thought never runs on into the next one.
        """
        for kind, voice in self._voices.items():
            voice.marked = True
            voice.apart = voice.apart or apart or kind == "reasoning"

    def call(self, parts: Sequence[ReplyPart], first: int) -> None:
        """Tell pieces of calls, which count from ``first`` on."""
        for part in parts:
            self.parts.append(evolve(part, index=first + part.index))
            self.calls = max(self.calls, first + part.index + 1)

    def end(self, kind: Kind) -> None:
        """Tell the white space at the reply's end, unless a marker stood next to it."""
        voice = self._voices[kind]
        if voice.space and not voice.marked:
            self.parts.append(ReplyPart(kind=kind, text=voice.space))
        voice.space = ""

    def take(self, *, thinking: bool) -> OutputDelta:
        """Return what was told since the last time."""
        parts, self.parts = self.parts, []
        broken, self.broken = self.broken, 0
        done = [self._learn(part) for part in parts if part.kind == "call"]
        return OutputDelta(
            content="".join(part.text for part in parts if part.kind == "content"),
            reasoning="".join(part.text for part in parts if part.kind == "reasoning"),
            tool_calls=tuple(call for call in done if call is not None),
            parts=tuple(parts),
            broken=broken,
            thinking=thinking,
        )

    def _learn(self, part: ReplyPart) -> dict[str, str] | None:
        """Keep a piece of a call; return the call if it is the last."""
        first = self._open.setdefault(part.index, part)
        self._texts.setdefault(part.index, []).append(part.arguments)
        if not part.done:
            return None
        del self._open[part.index]
        call = {"name": first.name, "arguments": "".join(self._texts.pop(part.index))}
        return call | ({"id": first.id} if first.id else {})
