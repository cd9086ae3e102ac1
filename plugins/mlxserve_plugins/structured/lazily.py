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
    ended: bool


@define(eq=False)
class Lazily:
    """Holds to a grammar what begins with ``trigger``; costs nothing before.

    A marker in the model's thinking is no call. What follows a marker and cannot be a call, because
    the token that ended the marker went on with something else, is left free.

    Attributes:
        make: Returns a matcher of the trigger and what follows it.
        text: Says what tokens spell.
        size: Width of the logits.
        param: The field that demands it.
        trigger: The marker.
        after: What ends the thinking; empty if the reply does not begin with any.
        single: Whether the reply ends with the first call.
    """

    make: Callable[[], LLMatcher]
    text: TextCodec
    size: int
    param: str
    trigger: str
    after: str = ""
    single: bool = False
    _tail: bytes = b""
    _thinking: bool = field(init=False)
    _call: Follows | None = None
    _ended: bool = False
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
            self._before.append(_Was(self._tail, self._thinking, self._call, self._ended))
            if self._call is not None:
                self._call.advance((token,))
                if self._call.finished:
                    self._call, self._ended = None, self.single
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
        self._call, self._ended = was.call, was.ended

    @property
    def finished(self) -> bool:
        """Whether the one call that is wanted is complete."""
        return self._ended

    def _look(self, token: int) -> None:
        mark = (self.after if self._thinking else self.trigger).encode()
        seen = self._tail + self.text.token_bytes(token)
        at = seen.find(mark)
        if at < 0:
            self._tail = seen[-len(mark) :]
        elif self._thinking:
            self._thinking, self._tail = False, seen[at + len(mark) :]
        else:
            self._tail = b""
            self._begin(seen[at + len(mark) :])

    def _begin(self, more: bytes) -> None:
        matcher = self.make()
        spelt = self.trigger + more.decode(errors="ignore")
        tokens = self.text.encode(spelt, add_special_tokens=False)
        if matcher.consume_tokens(tokens) and not matcher.is_error():
            self._call = Follows(matcher, self.size, self.param)
