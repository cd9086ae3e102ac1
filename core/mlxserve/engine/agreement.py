"""What ranks must decide alike although each sees it for itself."""

from collections.abc import Sequence
from typing import Any, Final, cast

import mlx.core as mx
from attrs import field, frozen

CHECKED: Final = 32
"""Steps between two comparisons."""

MODULUS: Final = 1_000_003


class DisagreementError(Exception):
    """Ranks that were to decide alike did not."""


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
        self._seen[0] = (self._seen[0] * 31 + sum(tokens)) % MODULUS
        self._seen[1] += 1
        if self._seen[1] % CHECKED == 0:
            low, negated_high = self.least([self._seen[0], -self._seen[0]])
            if low != -negated_high:
                raise DisagreementError("the ranks sampled different tokens")


ALONE: Final = Agreement()
"""One rank."""
