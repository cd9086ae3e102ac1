"""How long passes take, and how much of a prompt an iteration may run from what was seen."""

import time
from typing import Final

from attrs import define

SHARE: Final = 0.2
"""Weight of the newest measurement."""

OUTLIER: Final = 2.0
"""No pass counts as slower than so many times what was expected: the first of a shape may load or
compile what it needs, and says nothing of the next."""

STEPS: Final = 8
LEAST_GAP, MOST_GAP = 0.05, 0.3
"""The pause that running streams see, if nobody says: so many steps, within these seconds."""


@define
class Stopwatch:
    """Adds up the seconds spent inside ``with``; one thread, not nested."""

    seconds: float = 0.0
    _began: float = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._began


@define
class Pace:
    """Seconds of a decode step and of prefill passes, as measured; engine thread.

    A pass over ``n`` prompt tokens is taken to last ``overhead + n * per_token``.

    Attributes:
        max_gap: Seconds that running streams may wait for a token; ``None`` adapts.
        overhead: Seconds of a pass over next to nothing.
        per_token: Seconds of each token more.
        step: Seconds of a decode step.
    """

    max_gap: float | None = None
    overhead: float = 0.0
    per_token: float = 0.0
    step: float = 0.0

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn of a pass over prompt tokens alone: a short one says what a pass costs at least."""
        if self.per_token == 0.0:
            self.per_token = seconds / max(tokens, 1)
            return
        known = (self.overhead + self.per_token * tokens) or seconds
        # Which of the two was off is not known: both move alike.
        factor = 1 + SHARE * (min(seconds / known, OUTLIER) - 1)
        self.overhead, self.per_token = self.overhead * factor, self.per_token * factor

    def calibrate(self, few: tuple[int, float], many: tuple[int, float]) -> None:
        """Learn from two passes, as (tokens, seconds)."""
        (a, short), (b, long) = few, many
        self.per_token = max((long - short) / max(b - a, 1), 1e-9)
        self.overhead = max(short - a * self.per_token, 0.0)

    def stepped(self, seconds: float) -> None:
        """Learn of an iteration that did nothing but decode."""
        self.step = seconds if not self.step else self.step + SHARE * (seconds - self.step)

    def tokens(self, decoding: int, behind: int, most: int) -> int:
        """Return how many prompt tokens to run beside decoding rows.

        Args:
            decoding: Rows that wait meanwhile.
            behind: Sequences in prefill or in the queue: the more of them for each row that
                decodes, the longer the rows wait, since a fuller batch is cheaper for all.
            most: Never more than this.
        """
        if self.per_token == 0.0:
            return most
        gap = self.max_gap
        if gap is None:
            base = min(max(STEPS * self.step, LEAST_GAP), MOST_GAP)
            gap = base * (1 + behind / max(decoding, 1))
        return max(min(int((gap - self.overhead) / self.per_token), most), 16)
