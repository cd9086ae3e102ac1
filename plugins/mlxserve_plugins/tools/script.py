"""Read text that arrives in pieces with code that is written as if it were all there."""

import json
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar

from attrs import define, field

from mlxserve_hookspecs import ReplyPart

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""A routine that yields when it needs more text, and returns a ``T``."""

Sink: TypeAlias = Callable[[str], object]
Status: TypeAlias = Literal["open", "done", "broken"]

NAME_LIMIT: Final = 200
"""Characters of a call's head: what is longer is no function's name."""

_SPACE: Final = re.compile(r"\s*")


class BrokenError(Exception):
    """The text is no call."""


class CutError(Exception):
    """The text ended too early."""


@define(eq=False)
class CallScript:
    """Reads one call, or several that stand between one pair of markers.

    A call *opens* when its name and the start of its arguments are known. From then on it stays a
    call: its arguments have gone out. What breaks before is no call, and the parser gives the text
    back; what breaks after goes out as the rest of the arguments, up to the closing marker.

    Attributes:
        tools: The request's tools.
        end: The closing marker; empty if there is none.
        status: ``open`` until the last call ended; ``done`` then, and ``rest`` is what follows.
        parts: What became certain; taken by ``take``.
        broken: Calls that broke after they had opened.
    """

    tools: Sequence[Any] | None
    end: str = ""
    status: Status = "open"
    broken: int = 0
    parts: list[ReplyPart] = field(factory=list)
    _text: str = ""
    _at: int = 0
    _ended: bool = False
    _opened: bool = False
    _index: int = -1
    _any: bool = False
    _base: int = 0
    _sure: int = 0
    _steps: Steps[None] | None = None

    def read(self) -> Steps[None]:
        """Read all there is; return where the last call ends."""
        raise NotImplementedError

    @property
    def opened(self) -> bool:
        """Whether anything went out."""
        return self._any

    @property
    def rest(self) -> str:
        """The text after the last call."""
        return self._text[self._at :]

    def feed(self, text: str) -> None:
        """Take the next piece."""
        self._text += text
        self._run()

    def finish(self) -> None:
        """Learn that nothing follows."""
        self._ended = True
        self._run()

    def take(self) -> list[ReplyPart]:
        """Return the parts since the last time."""
        parts, self.parts = self.parts, []
        return parts

    # -- what a routine says -----------------------------------------------------------------

    def open(self, name: str, ident: str = "") -> None:
        """Begin a call."""
        self._index += 1
        self._opened = self._any = True
        self._sure = self._at
        self.parts.append(ReplyPart(kind="call", index=self._index, name=name, id=ident))

    def say(self, fragment: str) -> None:
        """Add to the open call's arguments."""
        self._sure = self._at
        if fragment:
            self.parts.append(ReplyPart(kind="call", index=self._index, arguments=fragment))

    def close(self) -> None:
        """End the open call."""
        self._opened, self._base = False, self._at
        self.parts.append(ReplyPart(kind="call", index=self._index, done=True))

    def whole(self, name: Any, arguments: Any, ident: Any = "") -> None:
        """Say a call at once.

        Raises:
            BrokenError: It is none.
        """
        if not isinstance(name, str) or not name:
            raise BrokenError
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise BrokenError
        try:
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BrokenError from error
        self.open(name, ident if isinstance(ident, str) else "")
        self.say(text)
        self.close()

    def settle(self) -> None:
        """Note that what was read so far is no text, whatever follows."""
        self._base = self._at

    def back(self) -> None:
        """Go back to where it settled last: what was read since is no part of the call."""
        self._at = self._base

    # -- what a routine reads with -----------------------------------------------------------

    def more(self) -> Steps[None]:
        """Wait for text.

        Raises:
            CutError: There is no more.
        """
        if self._ended:
            raise CutError
        base = self._sure if self._opened else self._base
        if base > NAME_LIMIT:
            # What went out is not needed again; what did not may come back as text.
            self._text, self._at = self._text[base:], self._at - base
            self._base, self._sure = 0, max(self._sure - base, 0)
        size = len(self._text)
        while len(self._text) == size:
            yield
            if self._ended and len(self._text) == size:
                raise CutError

    def peek(self) -> Steps[str]:
        """Return the next character."""
        while self._at >= len(self._text):
            yield from self.more()
        return self._text[self._at]

    def space(self) -> Steps[str]:
        """Skip white space; return the character after it."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            yield from self.more()

    def take_char(self) -> Steps[str]:
        """Return the next character and step over it."""
        char = yield from self.peek()
        self._at += 1
        return char

    @property
    def ahead(self) -> bool:
        """Whether there is text that was not read."""
        return self._at < len(self._text)

    def matched(self, pattern: "re.Pattern[str]") -> str:
        """Step over what ``pattern`` finds in the text that is there, and return it."""
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found.group() if found else ""

    def comes(self, *options: str) -> Steps[str | None]:
        """Return which of ``options`` comes next, the first of them; ``None`` if none does."""
        while True:
            ahead = self._text[self._at : self._at + max(map(len, options))]
            undecided = False
            for option in options:
                if ahead.startswith(option):
                    return option
                if len(ahead) < len(option) and option.startswith(ahead):
                    undecided = True
                    break
            if not undecided or self._ended:
                return None
            yield from self.more()

    def skip(self, *options: str) -> Steps[str | None]:
        """Step over the one of ``options`` that comes next, if one does; return it."""
        found = yield from self.comes(*options)
        self._at += len(found or "")
        return found

    def expect(self, literal: str) -> Steps[None]:
        """Step over ``literal``.

        Raises:
            BrokenError: Something else comes.
        """
        while len(self._text) - self._at < len(literal):
            if not literal.startswith(self._text[self._at :]):
                raise BrokenError
            yield from self.more()
        if not self._text.startswith(literal, self._at):
            raise BrokenError
        self._at += len(literal)

    def until(self, *marks: str, limit: int | None = None) -> Steps[tuple[str, str]]:
        """Return the text up to the first of ``marks``, and the mark; step over both.

        Raises:
            BrokenError: There are ``limit`` characters without any.
        """
        begun = 0
        while True:
            ahead = self._text[self._at :]
            found = [(at, mark) for mark in marks if (at := ahead.find(mark, begun)) >= 0]
            if found:
                at, mark = min(found, key=lambda one: (one[0], -len(one[1])))
                self._at += at + len(mark)
                return ahead[:at], mark
            if limit is not None and len(ahead) > limit:
                raise BrokenError
            begun = max(len(ahead) - max(map(len, marks)) + 1, 0)
            yield from self.more()

    # -- how it is run -----------------------------------------------------------------------

    def _run(self) -> None:
        if self.status != "open":
            return
        if self._steps is None:
            self._steps = self._all()
        try:
            next(self._steps)
        except StopIteration:
            self.status = "done"
        except (BrokenError, CutError):
            self.status = "broken"

    def _all(self) -> Steps[None]:
        try:
            yield from self.read()
        except BrokenError:
            if not self._opened:
                if not self._any:
                    raise
                self.broken += 1
                self.back()
                return
            self.broken += 1
            yield from self._give_up()
        except CutError:
            if not self._opened:
                if not self._any:
                    raise
                self.back()
                return
            self.broken += 1
            self._at = len(self._text)
            self.close()

    def _give_up(self) -> Steps[None]:
        """Say the rest of a broken call as it is, up to the closing marker."""
        self._at = self._sure
        try:
            if self.end:
                text, _ = yield from self.until(self.end)
                self.say(text.rstrip())
            else:
                while True:
                    yield from self.more()
        except CutError:
            self.say(self._text[self._at :].rstrip())
            self._at = len(self._text)
        self.close()
