"""What is on disk, in memory: every block's place, and which run gives way next."""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from attrs import define, frozen

from mlxserve_hookspecs import BlockKey


@define(eq=False)
class Run:
    """One file. Of its fields only ``used`` and ``pins`` change, under the index's lock.

    Attributes:
        path: The file.
        size: Its bytes.
        parent: The hash before its first block.
        used: When it was last read or written (Unix seconds).
        hashes: Its blocks, in order.
        pins: Readers that need it.
    """

    path: Path
    size: int
    parent: bytes
    used: float
    hashes: tuple[bytes, ...]
    pins: int = 0


@frozen
class _Place:
    """Where a block is. The tokens are packed: a tuple of them takes five times the memory."""

    run: Run
    parent: bytes
    tokens: bytes

    def holds(self, key: BlockKey) -> bool:
        return self.parent == key.parent and self.tokens == _packed(key.tokens)


class Part(NamedTuple):
    """Consecutive blocks of one run, which is pinned for whoever got this."""

    run: Run
    keys: Sequence[BlockKey]


class Index:
    """The runs of one namespace. Safe on any thread; no method does I/O."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: dict[bytes, _Place] = {}
        self._runs: OrderedDict[Run, None] = OrderedDict()  # least recently used first
        self._after: dict[bytes, list[Run]] = {}
        self._bytes = 0

    @property
    def blocks(self) -> int:
        """How many blocks can be found."""
        return len(self._places)

    @property
    def files(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    @property
    def size(self) -> int:
        """The bytes that the runs take on disk."""
        return self._bytes

    def has(self, key: BlockKey) -> bool:
        """Return whether a block is here; its tokens are compared."""
        with self._lock:
            place = self._places.get(key.hash)
            return place is not None and place.holds(key)

    def pin(self, keys: Sequence[BlockKey]) -> Part | None:
        """Return the part of ``keys``, from the first on, that one run has; ``unpin`` it."""
        with self._lock:
            taken: list[BlockKey] = []
            run: Run | None = None
            for key in keys:
                place = self._places.get(key.hash)
                if place is None or not place.holds(key) or (run and place.run is not run):
                    break
                run = place.run
                taken.append(key)
            if run is None:
                return None
            run.pins += 1
            return Part(run, taken)

    def unpin(self, run: Run, used: float) -> None:
        """Say that a pinned run was read at ``used``."""
        with self._lock:
            run.pins -= 1
            run.used = used
            if run in self._runs:
                self._runs.move_to_end(run)

    def add(self, run: Run, keys: Iterable[BlockKey]) -> int:
        """Take a run; return how many of its blocks were news: a block has one place."""
        news = 0
        with self._lock:
            for key in keys:
                if key.hash not in self._places:
                    self._places[key.hash] = _Place(run, key.parent, _packed(key.tokens))
                    news += 1
            if news:
                self._runs[run] = None
                self._after.setdefault(run.parent, []).append(run)
                self._bytes += run.size
        return news

    def remove(self, run: Run) -> None:
        """Forget a run; does nothing if it is forgotten."""
        with self._lock:
            self._drop(run)

    def oldest(self) -> float | None:
        """Return when the least recently used run was used."""
        with self._lock:
            return next((run.used for run in self._runs), None)

    def evict(self) -> Run | None:
        """Forget the least recently used run that nobody reads, tails before heads."""
        with self._lock:
            victim = next((tail for run in self._runs if not (tail := self._tail(run)).pins), None)
            if victim:
                self._drop(victim)
            return victim

    def expire(self, before: float) -> list[Run]:
        """Forget and return the runs that nobody used since ``before``."""
        with self._lock:
            expired = [run for run in self._runs if run.used < before and not run.pins]
            for run in expired:
                self._drop(run)
            return expired

    def count(self, chosen: Callable[[bytes], bool]) -> int:
        """Return how many blocks have such a hash."""
        with self._lock:
            return sum(chosen(name) for name in self._places)

    def clear(self, chosen: Callable[[bytes], bool]) -> tuple[int, list[Run]]:
        """Forget the runs that nobody reads whose first block has such a hash.

        Returns:
            How many blocks that was, and the runs.
        """
        with self._lock:
            before = len(self._places)
            gone = [run for run in self._runs if not run.pins and chosen(run.hashes[0])]
            for run in gone:
                self._drop(run)
            return before - len(self._places), gone

    def _drop(self, run: Run) -> None:
        if run not in self._runs:
            return
        del self._runs[run]
        self._bytes -= run.size
        siblings = self._after[run.parent]
        siblings.remove(run)
        if not siblings:
            del self._after[run.parent]
        for block in run.hashes:
            if (place := self._places.get(block)) and place.run is run:
                del self._places[block]

    def _tail(self, run: Run) -> Run:
        """Return a run at the end of what continues ``run``: without its head it is no use."""
        seen = {run}
        while following := next(self._following(run, seen), None):
            run = following
            seen.add(run)
        return run

    def _following(self, run: Run, seen: set[Run]) -> Iterator[Run]:
        for block in reversed(run.hashes):
            yield from (after for after in self._after.get(block, ()) if after not in seen)


def _packed(tokens: Sequence[int]) -> bytes:
    return array("q", tokens).tobytes()
