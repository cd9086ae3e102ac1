"""What a grammar allows next, token by token. Engine thread only."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np
from attrs import define, field
from llguidance import LLMatcher

from mlxserve_hookspecs import Array, TextCodec
from mlxserve_plugins.structured.demands import refusal


@define(eq=False)
class Follows:
    """Holds one reply to a grammar.

    Attributes:
        matcher: Where in the grammar the reply is; its own.
        size: Width of the logits.
        param: The request's field that demands it.
    """

    matcher: LLMatcher
    size: int
    param: str

    def mask(self) -> Array:
        """Return booleans ``[size]``: what the grammar goes on with, and ends where it may end.

        Raises:
            RequestError: No token leads on, or finding them costs too much (status 400).
        """
        packed = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(packed, count=self.size, bitorder="little")
        if self.matcher.is_error() or not bits.any():
            raise refusal(
                self.param, f"`{self.param}` cannot be followed: it is too complex for this model"
            )
        return mx.array(bits.view(np.bool_))

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that were taken."""
        if not self.matcher.consume_tokens(list(tokens)):
            raise ValueError(f"tokens {list(tokens)} do not follow the grammar")

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        if count and not self.matcher.rollback(count):
            raise ValueError(f"{count} tokens cannot be taken back")

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self.matcher.is_stopped())


@define(eq=False)
class AfterThinking:
    """Lets the model think as it likes, but not end, and holds what follows to a grammar.

    Attributes:
        ways: What holds what follows the thinking, by the mark that ends it.
        text: Says what tokens spell.
        size: Width of the logits.
    """

    ways: Mapping[bytes, Follows]
    text: TextCodec
    size: int
    _thoughts: list[bytes] = field(factory=list)
    _answered: int = 0
    _answer: Follows | None = None
    _longest: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Look no further back than the longest mark."""
        self._longest = max(map(len, self.ways))

    def mask(self) -> Array:
        """Return booleans ``[size]``: anything but the end of the reply, until the thinking ends.

        Raises:
            RequestError: As the grammar's.
        """
        if self._answer is not None:
            return self._answer.mask()
        allowed = np.ones(self.size, np.bool_)
        allowed[[token for token in self.text.eos_token_ids if token < self.size]] = False
        return mx.array(allowed)

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that were taken."""
        for token in tokens:
            if self._answer is not None:
                self._answer.advance((token,))
                self._answered += 1
                continue
            self._thoughts.append(self.text.token_bytes(token))
            # As many tokens as the marker has bytes: none is empty that matters.
            last = b"".join(self._thoughts[-self._longest :])
            self._answer = next((way for mark, way in self.ways.items() if mark in last), None)

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens; a thought that is taken back was not the end."""
        answered = min(count, self._answered)
        if self._answer is not None:
            self._answer.rollback(answered)
        self._answered -= answered
        if count > answered:
            del self._thoughts[answered - count :]
            self._answer = None

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return self._answer is not None and self._answer.finished
