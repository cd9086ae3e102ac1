"""What ranks must decide alike although each sees it for itself."""

from collections.abc import Sequence
from typing import Any, Final, cast

import mlx.core as mx
from attrs import field, frozen

CHECKED: Final = 32
"""Steps between two comparisons."""

MODULUS: Final = 1_000_003
NOTHING: Final = -1
"""Where a guess has no token."""


class DisagreementError(Exception):
    """Ranks that were to decide alike did not."""


class BrokenPassError(Exception):
    """A forward pass failed here, and the other ranks are somewhere in theirs."""


@frozen
class Agreement:
    """Answers that are the same on every rank. With one rank: one's own. Engine thread.

    Attributes:
        group: The ranks, or ``None``.
    """

    group: Any = None
    _seen: list[int] = field(factory=lambda: [0, 0], eq=False)

    @property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self.group is None or self.group.size() == 1

    def least(self, values: Sequence[int]) -> list[int]:
        """Return the least of each value over all ranks; waits for them."""
        if self.alone or not values:
            return list(values)
        mine = mx.array(list(values), mx.int32)
        return cast(list[int], mx.distributed.all_min(mine, group=self.group).tolist())

    def check(self, tokens: Sequence[int]) -> None:
        """Compare what the ranks sampled, every few steps; waits for them.

        Raises:
            DisagreementError: They do not hold the same tokens: nothing that follows is right.
        """
        if self.alone:
            return
        for token in (len(tokens), *tokens):
            self._seen[0] = (self._seen[0] * 31 + token + 1) % MODULUS
        self._seen[1] += 1
        if self._seen[1] % CHECKED == 0:
            low, negated_high = self.least([self._seen[0], -self._seen[0]])
            if low != -negated_high:
                raise DisagreementError("the ranks sampled different tokens")

    def common(self, guesses: Sequence[tuple[int, ...]], width: int) -> list[tuple[int, ...]]:
        """Return how far each guess of up to ``width`` tokens is the same everywhere; waits.

        The ranks verify drafts in one pass: what they do not all guess, none of them may.
        """
        if self.alone or not guesses:
            return list(guesses)
        flat = [token for guess in guesses for token in (*guess, *[NOTHING] * (width - len(guess)))]
        found = self.least([*flat, *(-token for token in flat)])
        same = [
            low if low == -negated_high else NOTHING
            for low, negated_high in zip(found[: len(flat)], found[len(flat) :], strict=True)
        ]
        rows = [(*same[at : at + width], NOTHING) for at in range(0, len(same), width)]
        return [row[: row.index(NOTHING)] for row in rows]

    def survive(self, error: Exception) -> None:
        """Return if a forward pass that failed is this process's own affair.

        Raises:
            BrokenPassError: It is not: the next collective here would meet another one there.
        """
        if not self.alone:
            raise BrokenPassError(f"a forward pass failed: {type(error).__name__}") from error


ALONE: Final = Agreement()
"""One rank."""
