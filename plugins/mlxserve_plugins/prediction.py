"""Guess what the client predicts: OpenAI's predicted outputs, for edits of known text."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import DraftRequest, Proposer, TokenProposer, hookimpl

NEAR: Final = 32
"""How far ahead a single token is looked for after the reply left the prediction: an edit."""

ANCHOR: Final = 3
"""Tokens in a row that find their place anywhere in the prediction."""


@define
class Prediction:
    """Costs nothing for requests without a ``prediction``."""

    @hookimpl
    def make_proposer(self, vocab_size: int) -> Proposer:
        """Answer for every model."""
        return PredictionProposer(vocab_size)


@define(eq=False)
class PredictionProposer(TokenProposer["Trail"]):
    """Follows each reply through its prediction.

    Attributes:
        vocab: Token ids end there.
        on_request: Only some requests are drafted for: passes for it need not be at hand.
    """

    vocab: int
    on_request: bool = field(default=True, init=False)

    def begin(self, row: DraftRequest) -> "Trail | None":
        """Want rows whose client predicted something."""
        return Trail(row.prediction, row.prompt_tokens) if row.prediction else None

    def guess(self, kept: "Trail", row: DraftRequest) -> Sequence[int]:
        """Return the prediction from where the reply is in it."""
        kept.follow(row.tokens)
        return kept.ahead(row.room)


@define(eq=False)
class Trail:
    """Where a reply is in its prediction.

    Attributes:
        prediction: The tokens expected.
        read: Tokens of the sequence that were followed.
        at: Where the next token is expected; kept, as a place to search from, when lost.
        lost: Whether the reply has left the prediction.
        operations: Steps of following and searching so far.
    """

    prediction: tuple[int, ...]
    read: int
    at: int = 0
    lost: bool = False
    operations: int = 0
    _anchors: dict[tuple[int, ...], list[int]] = field(factory=dict)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take the tokens that came since the last time."""
        for end in range(self.read + 1, len(tokens) + 1):
            self.operations += 1
            if not self.lost and self.at < len(self.prediction):
                self.lost = self.prediction[self.at] != tokens[end - 1]
            else:
                self.lost = True
            if self.lost:
                self._find(tokens[max(end - ANCHOR, 0) : end])
            else:
                self.at += 1
        self.read = max(self.read, len(tokens))

    def ahead(self, count: int) -> tuple[int, ...]:
        """Return what is expected next; nothing while the reply is elsewhere."""
        return () if self.lost else self.prediction[self.at : self.at + count]

    def _find(self, tail: Sequence[int]) -> None:
        """Go on after the last tokens, or after the last one alone if that is near."""
        places = self._places().get(tuple(tail), [])
        self.operations += 1
        if places:
            # The next place from here on; a reply may also go back.
            after = places[bisect_left(places, self.at) % len(places)]
        else:
            near = self.prediction[self.at : self.at + NEAR]
            self.operations += len(near)
            if tail[-1] not in near:
                return
            after = self.at + near.index(tail[-1]) + 1
        self.at, self.lost = after, False

    def _places(self) -> dict[tuple[int, ...], list[int]]:
        """Index the prediction when it is first needed: a true prediction never needs it."""
        if not self._anchors:
            for end in range(ANCHOR, len(self.prediction) + 1):
                gram = self.prediction[end - ANCHOR : end]
                self._anchors.setdefault(gram, []).append(end)
                self.operations += 1
        return self._anchors
