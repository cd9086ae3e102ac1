"""How well guesses went: per position of a draft, recent ones count most."""

from collections.abc import Sequence
from typing import Final

from attrs import define, field

FADING: Final = 0.9
"""What a guess counts for after the next one."""

TRUST: Final = 1.0
"""How many guesses the prior knowledge of a new row counts for."""

FIRST_RATE: Final = 0.5
"""What is expected of a proposer that nobody knows."""


@define(eq=False)
class Record:
    """The recent past of one row, or of all of them.

    Acceptance is kept per position, given that the draft held until there: copies are all or
    nothing, and one rate for all positions would take them for mediocre.

    Attributes:
        most: Longest draft.
        prior: What to expect before anything is known; ``None`` is ``FIRST_RATE`` everywhere.
        fading: What a guess counts for after the next one.
    """

    most: int
    prior: "Record | None" = None
    fading: float = FADING
    _hits: list[float] = field(init=False)
    _trials: list[float] = field(init=False)
    _found: float = 0.0
    _asked: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._hits, self._trials = [0.0] * self.most, [0.0] * self.most

    @property
    def coverage(self) -> float:
        """How often there is a draft when one is asked for."""
        prior = 1.0 if self.prior is None else self.prior.coverage
        return (self._found + TRUST * prior) / (self._asked + TRUST)

    def rate(self, position: int) -> float:
        """Return how probable a draft's token is to stay if those before it do."""
        prior = FIRST_RATE if self.prior is None else self.prior.rate(position)
        return (self._hits[position] + TRUST * prior) / (self._trials[position] + TRUST)

    def survival(self) -> Sequence[float]:
        """Return for each length how probable it is that so much of a draft stays."""
        so_far, result = 1.0, []
        for position in range(self.most):
            so_far *= self.rate(position)
            result.append(so_far)
        return result

    def missed(self) -> None:
        """Note that there was no draft."""
        self._asked = self.fading * self._asked + 1
        self._found *= self.fading

    def judged(self, drafted: int, accepted: int) -> None:
        """Note what became of a draft."""
        self._asked = self.fading * self._asked + 1
        self._found = self.fading * self._found + 1
        for position in range(min(drafted, accepted + 1, self.most)):
            self._trials[position] = self.fading * self._trials[position] + 1
            hit = position < accepted
            self._hits[position] = self.fading * self._hits[position] + hit
