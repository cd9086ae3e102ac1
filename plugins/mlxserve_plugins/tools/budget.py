"""End a model's thinking after so many tokens, with the model's own marker. Engine thread only."""

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve_hookspecs import Array, Constraint, GenerationRequest, TextCodec
from mlxserve_plugins.tools.thinking import Meter

KEY: Final = "thinking_budget"
"""Of a request's constraint: at most so many tokens are thought."""


def limited(
    inner: Constraint | None, request: GenerationRequest, text: TextCodec, size: int
) -> Any:
    """Return ``inner``, with the budget that the request has for thinking, if it has one."""
    budget = (request.constraint or {}).get(KEY)
    if budget is None or not text.markup.think_end:
        return inner
    close = text.markup.think_close or f"\n{text.markup.think_end}\n\n"
    tokens = tuple(text.encode(close, add_special_tokens=False))
    meter = Meter(text, reasoning=text.opens_thinking(request.prompt))
    return ThinkingBudget(meter, text, size, int(budget), tokens, inner)


class Unlimited:
    """Allows anything: the model marks no thinking."""

    finished = False

    def mask(self) -> None:
        """Return none: anything may come."""

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn nothing."""

    def rollback(self, count: int) -> None:
        """Forget nothing."""


@frozen
class _Was:
    """How it stood before a token."""

    meter: Any
    said: int
    half: bool


@define(eq=False)
class ThinkingBudget:
    """Lets a model think for ``budget`` tokens, and says the marker in its place then.

    Attributes:
        meter: Counts the thinking.
        text: Says what tokens spell.
        size: Width of the logits.
        budget: Tokens.
        close: What is said then.
        inner: Holds the rest of the reply to a form; ``None``: nothing does.
    """

    meter: Meter
    text: TextCodec
    size: int
    budget: int
    close: tuple[int, ...]
    inner: Constraint | None = None
    _said: int = 0
    _half: bool = False
    _before: list[_Was] = field(factory=list)

    def mask(self) -> Array | None:
        """Return the marker's next token when the budget is spent, else what ``inner`` allows."""
        if self._closing:
            allowed = mx.zeros((self.size,), mx.bool_)
            allowed[self.close[self._said]] = True
            return allowed
        return None if self.inner is None else self.inner.mask()

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that were taken."""
        for token in tokens:
            self._before.append(_Was(self.meter.state, self._said, self._half))
            if self._closing:
                self._said += 1
            self.meter.add((token,))
            self._half = _is_half(self.text.token_bytes(token), self._half)
        if self.inner is not None:
            self.inner.advance(tokens)

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        if not count:
            return
        was = self._before[-count]
        del self._before[-count:]
        self.meter.state, self._said, self._half = was.meter, was.said, was.half
        if self.inner is not None:
            self.inner.rollback(count)

    @property
    def finished(self) -> bool:
        """Whether the reply is complete."""
        return self.inner is not None and self.inner.finished

    @property
    def _closing(self) -> bool:
        """Whether the marker is being said; never in the middle of a character."""
        if self._said:
            return self._said < len(self.close)
        spent = self.meter.thinking and self.meter.count >= self.budget
        return spent and not self._half


def _is_half(spelt: bytes, half: bool) -> bool:
    """Return whether the text ends within a character, after a token and ``half`` of one."""
    if half and spelt and all(0x80 <= byte < 0xC0 for byte in spelt):  # noqa: PLR2004 - UTF-8
        return False
    try:
        spelt.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
