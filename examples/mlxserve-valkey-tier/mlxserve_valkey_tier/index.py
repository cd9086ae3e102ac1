"""Which blocks are on the server, as far as this process has heard."""

from collections.abc import Iterable
from threading import Lock


class Index:
    """Hashes. Safe on any thread; nobody holds its lock for longer than an update takes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._hashes: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def has(self, name: bytes) -> bool:
        """Return whether a block is there."""
        return name in self._hashes

    def add(self, names: Iterable[bytes]) -> None:
        """Learn that blocks are there."""
        with self._lock:
            self._hashes.update(names)

    def discard(self, names: Iterable[bytes]) -> None:
        """Learn that blocks are not, or not any more."""
        with self._lock:
            self._hashes.difference_update(names)

    def clear(self) -> list[bytes]:
        """Forget all; return them."""
        with self._lock:
            forgotten, self._hashes = list(self._hashes), set()
            return forgotten
