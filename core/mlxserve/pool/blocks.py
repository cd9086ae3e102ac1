"""Numbers, users and names of one group's blocks: host bookkeeping, no arrays."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from attrs import define, field

from mlxserve_hookspecs import BlockKey, EvictionPolicy

SCRATCH: Final = 0
"""The block that idle rows write to; no sequence owns it."""


@define(eq=False)
class Blocks:
    """Who uses which block, and which full blocks can be found by what they hold.

    A block is free, used (by one sequence or several), or unused: named, without a user, waiting
    to be found again or to give way. Engine thread.

    Attributes:
        count: Blocks that may be used, scratch excluded.
        policy: Says which unused block gives way first; ``None`` keeps no unused block.
        free: How many hold nothing.
    """

    count: int
    policy: EvictionPolicy | None = None
    free: int = field(init=False)
    _free: "np.ndarray[tuple[int], np.dtype[np.bool_]]" = field(init=False)
    _meant: "np.ndarray[tuple[int], np.dtype[np.bool_]]" = field(init=False)
    _users: dict[int, int] = field(factory=dict)
    _keys: dict[int, BlockKey] = field(factory=dict)
    _numbers: dict[bytes, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.free = self.count
        self._free = np.ones(self.count + 1, np.bool_)
        self._free[SCRATCH] = False
        self._meant = np.zeros(self.count + 1, np.bool_)

    @property
    def used(self) -> int:
        """Blocks that sequences use; one that several share counts once."""
        return len(self._users)

    @property
    def unused(self) -> int:
        """Named blocks without a user."""
        return self.count - self.free - len(self._users)

    # -- numbers -------------------------------------------------------------------------------

    def take(self, count: int, after: int | None = None, ahead: int = 0) -> list[int]:
        """Return ``count`` free blocks, one user each; the caller has seen that they are free.

        Args:
            count: How many.
            after: A block that the first one should follow.
            ahead: Blocks that the caller will want later, one after the other: a place with as
                much room is chosen, and others keep out of it while they can.
        """
        taken: list[int] = []
        at = self.count + 1 if after is None else after + 1
        while len(taken) < count:
            if at > self.count or not self._free[at]:
                at = self._place(count - len(taken) + ahead)
                self._meant[at : at + count - len(taken) + ahead] = bool(ahead)
            self._free[at] = False
            self._users[at] = 1
            taken.append(at)
            at += 1
        self.free -= count
        return taken

    def _place(self, wanted: int) -> int:
        for usable in (self._free & ~self._meant, self._free):
            edges = np.flatnonzero(np.diff(usable, prepend=False, append=False))
            if not len(edges):
                continue
            starts, lengths = edges[::2], edges[1::2] - edges[::2]
            fits = lengths >= wanted
            return int(starts[np.argmax(fits) if fits.any() else np.argmax(lengths)])
        raise RuntimeError("no block is free")

    def share(self, numbers: Iterable[int]) -> None:
        """Add a user to each block."""
        for number in numbers:
            users = self._users.get(number, 0)
            self._users[number] = users + 1
            if not users and self.policy is not None:
                self.policy.used([self._keys[number]])

    def release(self, numbers: Sequence[int]) -> list[int]:
        """Take a user from each block of a chain; return those that must be dropped now.

        Tails first, so that leaves are always older than their parents.
        """
        left, gone = [], []
        for number in reversed(numbers):
            self._users[number] -= 1
            if self._users[number]:
                continue
            del self._users[number]
            if number not in self._keys:
                self._put_back(number)
            elif self.policy is None:
                gone.append(number)
            else:
                left.append(self._keys[number])
        if left and self.policy is not None:
            self.policy.unused(left)
        return gone

    def unmean(self, start: int, end: int) -> None:
        """Let others have the place that a sequence did not come to use."""
        self._meant[start:end] = False

    def _put_back(self, number: int) -> None:
        self._free[number] = True
        self.free += 1

    # -- names ---------------------------------------------------------------------------------

    def name(self, number: int, key: BlockKey) -> None:
        """Let a used block be found by ``key``, unless another block already is."""
        if number not in self._keys and key.hash not in self._numbers:
            self._keys[number] = key
            self._numbers[key.hash] = number

    def find(self, key: BlockKey) -> int | None:
        """Return the block that holds ``key``; its tokens are compared."""
        number = self._numbers.get(key.hash)
        return number if number is not None and self._keys[number] == key else None

    def victims(self, count: int) -> list[tuple[int, BlockKey]]:
        """Return up to ``count`` unused blocks, those that give way first in front."""
        count = min(count, self.unused)
        if self.policy is None or count <= 0:
            return []
        chosen = [self._numbers.get(key.hash, SCRATCH) for key in self.policy.victims(count)]
        sound = [n for n in dict.fromkeys(chosen) if n in self._keys and n not in self._users]
        if len(sound) < count:  # a policy that names others than it was told of
            sound += [n for n in self._keys if n not in self._users and n not in set(sound)]
        return [(n, self._keys[n]) for n in sound[:count]]

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget what unused blocks hold: they are free."""
        for number in numbers:
            key = self._forget(number)
            if self.policy is not None:
                self.policy.used([key])
            self._put_back(number)

    def unname(self, numbers: Iterable[int]) -> None:
        """Let used blocks not be found any more: what they hold cannot be trusted."""
        for number in numbers:
            if number in self._keys:
                self._forget(number)

    def alone(self, number: int) -> bool:
        """Return whether a block has one user only."""
        return self._users.get(number) == 1

    def forget_all(self) -> None:
        """Forget what every block holds."""
        self.drop([number for number, _ in self.keys_unused()])
        self.unname(list(self._keys))

    def keys_unused(self) -> list[tuple[int, BlockKey]]:
        """Return every unused block."""
        return [(n, key) for n, key in self._keys.items() if n not in self._users]

    def _forget(self, number: int) -> BlockKey:
        key = self._keys.pop(number)
        del self._numbers[key.hash]
        return key
