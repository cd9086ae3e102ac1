"""A table where two ranks meet, that are two threads."""

import threading
from collections.abc import Sequence

from attrs import define, field, frozen

from mlxserve.ranks.agreement import Agreement

WAIT = 10.0


@define(eq=False)
class Table:
    """Where two ranks meet: each puts its values down and takes the least of both."""

    meeting: threading.Barrier = field(factory=lambda: threading.Barrier(2, timeout=WAIT))
    values: dict[int, list[int]] = field(factory=dict)
    met: int = 0

    def least(self, rank: int, values: Sequence[int]) -> list[int]:
        self.values[rank] = list(values)
        self.meeting.wait()
        found = [min(pair) for pair in zip(*self.values.values(), strict=True)]
        self.met += rank == 0
        self.meeting.wait()
        return found


@frozen
class AtTable(Agreement):
    """An agreement of two threads."""

    table: Table = field(kw_only=True)
    rank: int = field(kw_only=True)

    @property
    def alone(self) -> bool:
        return False

    def least(self, values: Sequence[int]) -> list[int]:
        return self.table.least(self.rank, values)
