"""Tables: which blocks of a group hold a sequence's tokens."""

from collections.abc import Sequence

from attrs import define, field

from mlxserve.pool.blocks import SCRATCH, Blocks
from mlxserve.pool.planes import LeafData


@define(eq=False)
class Table:
    """One sequence's blocks in one group, in the order of its tokens.

    Attributes:
        blocks: The group's.
        size: Tokens per block.
        numbers: Block numbers; ``SCRATCH`` where a block was given back or is not needed.
        given_back: Leading blocks that are ``SCRATCH``.
        version: Rises with each change.
    """

    blocks: Blocks
    size: int
    numbers: list[int] = field(factory=list)
    given_back: int = 0
    version: int = 0
    _meant: tuple[int, int] = (0, 0)
    _runs: tuple[tuple[int, int, int], ...] | None = None

    @property
    def capacity(self) -> int:
        """Tokens up to which there are blocks."""
        return len(self.numbers) * self.size

    @property
    def live(self) -> list[int]:
        """Blocks that the sequence uses, in order."""
        return self.numbers[self.given_back :]

    def missing(self, tokens: int) -> int:
        """Return how many blocks must be taken for ``tokens``."""
        return max(-(-tokens // self.size) - len(self.numbers), 0)

    def grow(self, count: int, ahead: int) -> None:
        """Take ``count`` blocks; see ``Blocks.take``."""
        after = self.numbers[-1] if len(self.numbers) > self.given_back else None
        taken = self.blocks.take(count, after, ahead)
        if ahead and after is None:
            self._meant = (taken[0], taken[0] + count + ahead)
        self.numbers += taken
        self._changed()

    def adopt(self, numbers: Sequence[int], first: int = 0) -> None:
        """Begin with blocks that have this user already; those before ``first`` are not needed."""
        self.numbers = [SCRATCH] * first + list(numbers[first:])
        self.given_back = first
        self._changed()

    def give_back(self, first: int) -> list[int]:
        """Stop using the blocks before ``first``; return those that must be dropped now."""
        gone = self.numbers[self.given_back : first]
        if not gone:
            return []
        self.numbers[self.given_back : first] = [SCRATCH] * len(gone)
        self.given_back = first
        self._changed()
        return self.blocks.release(gone)

    def close(self) -> list[int]:
        """Stop using every block; return those that must be dropped now."""
        gone = self.blocks.release(self.live)
        self.blocks.unmean(*self._meant)
        self.numbers, self.given_back = [], 0
        self._changed()
        return gone

    def _changed(self) -> None:
        self.version += 1
        self._runs = None

    def slot(self, token: int) -> int:
        """Return where ``token`` lies in the group's planes."""
        return self.numbers[token // self.size] * self.size + token % self.size

    def slots(self, start: int, end: int) -> list[int]:
        """Return where the tokens ``start`` to ``end`` lie."""
        size, numbers = self.size, self.numbers
        return [numbers[t // size] * size + t % size for t in range(start, end)]

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the runs of slots ``(first, past)`` that hold tokens ``start`` to ``end``."""
        if self._runs is None:
            self._runs = _runs(self.numbers, self.given_back, self.size)
        found = []
        for at, slot, length in self._runs:
            first, past = max(start, at), min(end, at + length)
            if first < past:
                found.append((slot + first - at, slot + past - at))
        return found


@define(eq=False)
class Row:
    """One live sequence's place in the pool.

    Attributes:
        tables: Its blocks, by group.
        length: Tokens that it holds.
        state: Recurrent layers' arrays ``[1, ...]``, by leaf, while it is not in the batch.
        slot: Its place in the batch, while it decodes.
    """

    tables: tuple[Table, ...]
    length: int = 0
    state: list[LeafData] = field(factory=list)
    slot: int | None = None

    @property
    def capacity(self) -> int | float:
        """Tokens that fit before more blocks are needed."""
        return min((table.capacity for table in self.tables), default=float("inf"))


def _runs(numbers: Sequence[int], first: int, size: int) -> tuple[tuple[int, int, int], ...]:
    """Return ``(token, slot, tokens)`` for each run of blocks that follow each other."""
    found: list[tuple[int, int, int]] = []
    for at in range(first, len(numbers)):
        slot = numbers[at] * size
        if found and found[-1][1] + found[-1][2] == slot:
            token, begin, length = found[-1]
            found[-1] = (token, begin, length + size)
        else:
            found.append((at * size, slot, size))
    return tuple(found)
