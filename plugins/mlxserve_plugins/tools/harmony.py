"""OpenAI's harmony format, which gpt-oss speaks: messages with a channel and maybe a recipient.

``<|channel|>analysis<|message|>...<|end|>`` is thinking, ``final`` the answer, ``commentary`` a
preamble or, ``to=functions.NAME``, a call: its arguments follow ``<|constrain|>json<|message|>``
(openai/harmony, ``docs/format.md``). ``<|call|>`` and ``<|return|>`` end replies and have no text.
"""

import re
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import OutputDelta
from mlxserve_plugins.tools.headed import arguments
from mlxserve_plugins.tools.marks import first_marker, held_back
from mlxserve_plugins.tools.objects import closing
from mlxserve_plugins.tools.parser import Tools
from mlxserve_plugins.tools.script import CallScript, Steps
from mlxserve_plugins.tools.told import Kind, Told

CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
START: Final = "<|start|>"
END: Final = "<|end|>"
CALL: Final = "<|call|>"
RETURN: Final = "<|return|>"
CONSTRAIN: Final = "<|constrain|>"

_RECIPIENT: Final = re.compile(r"\bto=([\w.:/-]+)")
_ENDS: Final = tuple((mark, "header") for mark in (END, CALL, RETURN, START, CHANNEL))
_HEADS: Final = ("<|", "to=", "assistant", "analysis", "commentary", "final")


@define(eq=False)
class HarmonyCall(CallScript):
    """Reads the arguments of a call whose name the header gave."""

    function: str = field(kw_only=True)

    def read(self) -> Steps[None]:
        """Read one object."""
        yield from arguments(self, self.function)
        yield from closing(self)


@define(eq=False)
class HarmonyParser:
    """Reads one choice; promises what ``ReplyParser`` promises."""

    tools: Tools
    forced: bool = False
    told: Told = field(factory=Told)
    _state: str = "header"
    _kind: Kind = "content"
    _held: str = ""
    _header: str = ""
    _begun: bool = False
    _script: CallScript | None = None
    _raw: str = ""
    _first: int = 0

    def feed(self, text: str) -> OutputDelta:
        """Take the next piece of text and return what became certain."""
        self._held += text
        self._run(final=False)
        return self._take()

    def finish(self) -> OutputDelta:
        """Return what was held back; the reply has ended."""
        self._run(final=True)
        if self._state == "header":
            # A header that the end cuts is no text; a reply without any header is.
            spoken = "" if self._begun or CHANNEL in self._held else self._held
        else:
            spoken = self._held
        if not self.forced:
            self.told.say(self._kind, spoken)
        self._held = ""
        self.told.end(self._kind)
        return self._take()

    def _take(self) -> OutputDelta:
        thinking = self._state == "body" and self._kind == "reasoning"
        return self.told.take(thinking=thinking)

    def _run(self, *, final: bool) -> None:
        while True:
            if self._script is not None:
                going = self._read_call(final=final)
            elif self._state == "header":
                going = self._read_header()
            else:
                going = self._read_body()
            if not going:
                return

    def _read_header(self) -> bool:
        if self._is_plain():
            return True
        head, found, rest = self._held.partition(MESSAGE)
        if not found:
            return False
        self._held, self._begun = rest, True
        self.told.mark(apart=True)
        self._enter(head)
        return True

    def _is_plain(self) -> bool:
        """Return whether the reply has no header at all: a model that was trained on another."""
        bare = self._held.lstrip()
        if self._begun or not bare:
            return False
        if any(head.startswith(bare[: len(head)]) for head in _HEADS):
            return False
        self._state, self._kind, self._begun = "body", "content", True
        return True

    def _enter(self, head: str) -> None:
        recipient = _RECIPIENT.search(head)
        channel = head.partition(CHANNEL)[2].lstrip()
        self._kind = "reasoning" if channel.startswith("analysis") else "content"
        self._state = "body"
        if recipient and self.tools and recipient[1] != "assistant":
            name = recipient[1].removeprefix("functions.")
            self._script, self._raw = HarmonyCall(self.tools, CALL, function=name), ""
            self._first = self.told.calls
            self._kind = "content"

    def _read_body(self) -> bool:
        found = first_marker(self._held, _ENDS)
        if found is None:
            certain = self._held[: len(self._held) - held_back(self._held, _ENDS)]
            self._held = self._held[len(certain) :]
            self.told.say(self._kind, certain)
            return False
        start, marker, _ = found
        self.told.say(self._kind, self._held[:start])
        kept = marker if marker == CHANNEL else ""
        self._held = kept + self._held[start + len(marker) :]
        self._state, self._begun = "header", True
        self.told.mark(apart=True)
        return True

    def _read_call(self, *, final: bool) -> bool:
        script = self._script
        assert script is not None
        if not script.opened:
            self._raw += self._held
        script.feed(self._held)
        self._held = ""
        if final:
            script.finish()
        self.told.call(script.take(), self._first)
        if script.status == "open":
            return False
        self._script = None
        if script.status == "broken":
            self.told.broken += 1
            self._held = "" if self.forced else self._raw
            self._state = "body"
        else:
            self.told.broken += script.broken
            self._held, self._state = script.rest, "body"
        return True
