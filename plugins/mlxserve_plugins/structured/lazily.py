"""Free text until a marker comes, then a grammar, then free text again. Engine thread only."""

from collections.abc import Callable, Sequence

from attrs import define, field, frozen
from llguidance import LLMatcher

from mlxserve_hookspecs import Array, TextCodec
from mlxserve_plugins.structured.constraint import Follows


@frozen
class _Was:
    """How it stood before a token."""

    tail: bytes
    thinking: bool
    call: Follows | None
    fresh: bool


@define(eq=False)
class Lazily:
    """Holds to a grammar what begins with ``trigger``; costs nothing before.

    A marker in the model's thinking is no call. What follows a marker and cannot be a call, because
    the token that ended the marker went on with something else, is left free. Calls of some
    families begin with no marker, at the start of a reply only: there a function's whole ``head``
    is one, for what merely looks like JSON may be an answer.

    Attributes:
        make: Returns a matcher of the trigger and what follows it; ``None`` without a trigger.
        text: Says what tokens spell.
        size: Width of the logits.
        param: The field that demands it.
        trigger: The marker.
        after: What ends the thinking; empty if the reply does not begin with any.
        heads: What a call without a marker begins with; one for each function.
        bare: Returns a matcher of such a call, head and all.
    """

    finished = False

    make: Callable[[], LLMatcher] | None
    text: TextCodec
    size: int
    param: str
    trigger: str
    after: str = ""
    heads: tuple[bytes, ...] = ()
    bare: Callable[[], LLMatcher] | None = None
    _tail: bytes = b""
    _thinking: bool = field(init=False)
    _call: Follows | None = None
    _fresh: bool = True
    _before: list[_Was] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Begin in the thinking, if the prompt opened it."""
        self._thinking = bool(self.after)

    def mask(self) -> Array | None:
        """Return what the call goes on with; ``None`` outside of calls."""
        return None if self._call is None else self._call.mask()

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that were taken."""
        for token in tokens:
            self._before.append(_Was(self._tail, self._thinking, self._call, self._fresh))
            if self._call is not None:
                self._call.advance((token,))
                if self._call.finished:
                    self._call = None
            else:
                self._look(token)

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        if not count:
            return
        taken = self._before[-count:]
        del self._before[-count:]
        was = taken[0]
        if was.call is not None:
            was.call.rollback(sum(one.call is was.call for one in taken))
        self._tail, self._thinking = was.tail, was.thinking
        self._call, self._fresh = was.call, was.fresh

    def _look(self, token: int) -> None:
        mark = (self.after if self._thinking else self.trigger).encode()
        seen = self._tail + self.text.token_bytes(token)
        if self._fresh and not self._thinking and self._may_be_bare(seen.lstrip()):
            if self._fresh:
                self._tail = seen  # all of it: a head is told by its whole
            return
        at = seen.find(mark) if mark else -1
        if at < 0:
            self._tail = seen[-len(mark) :] if mark else b""
        elif self._thinking:
            self._thinking, self._tail = False, seen[at + len(mark) :]
        elif self.make is not None:
            self._begin(self.make, seen[at:])

    def _may_be_bare(self, said: bytes) -> bool:
        """Return whether a reply that began like this is a call, or may become one."""
        if self.bare is not None and any(said.startswith(head) for head in self.heads):
            self._fresh = False
            self._begin(self.bare, said)
            return True
        self._fresh = any(head.startswith(said) for head in self.heads)
        return self._fresh

    def _begin(self, make: Callable[[], LLMatcher], spelt: bytes) -> None:
        self._tail, matcher = b"", make()
        tokens = self.text.encode(spelt.decode(errors="ignore"), add_special_tokens=False)
        if matcher.consume_tokens(tokens) and not matcher.is_error():
            self._call = Follows(matcher, self.size, self.param)
