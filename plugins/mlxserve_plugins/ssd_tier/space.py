"""How much may lie on disk, and what has to go: the size cap, the free-space floor, the TTL."""

import shutil
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from mlxserve_plugins.ssd_tier.folder import StoredFile, delete
from mlxserve_plugins.ssd_tier.index import Index
from mlxserve_plugins.ssd_tier.totals import Totals

GB: Final = 10**9
DAY: Final = 86400.0


@frozen(kw_only=True)
class Limits:
    """What the user allows.

    Attributes:
        most_bytes: On disk; ``None`` is unlimited.
        free_bytes: That stay free on the file system.
        ttl: Seconds after its last use that a file is deleted; ``None`` keeps it.
    """

    most_bytes: int | None = None
    free_bytes: int = 0
    ttl: float | None = None

    @classmethod
    def read(cls, max_size_gb: float, min_free_gb: float, ttl_days: int) -> "Limits":
        """Return the limits in bytes and seconds; 0 means none."""
        return cls(
            most_bytes=int(max_size_gb * GB) or None,
            free_bytes=int(min_free_gb * GB),
            ttl=ttl_days * DAY or None,
        )

    def expired(self, file: StoredFile, now: float) -> bool:
        """Return whether a file's time is over."""
        return self.ttl is not None and file.used < now - self.ttl


@define
class Space:
    """Makes room in a rank's folder. Runs on the writer thread.

    Attributes:
        folder: The rank's.
        others: Files that the index does not know: other namespaces' and the quarantine's,
            least recently used first. They count and give way like any other.
    """

    folder: Path
    limits: Limits
    index: Index
    totals: Totals
    others: deque[StoredFile] = field(factory=deque)

    def adopt(self, files: Iterable[StoredFile]) -> None:
        """Count files that the index does not know."""
        self.others = deque(sorted([*self.others, *files], key=lambda file: file.used))

    @property
    def used(self) -> int:
        """Bytes in the rank's folder."""
        return self.index.size + sum(file.size for file in self.others)

    def refusal(self, size: int) -> str | None:
        """Return why ``size`` more bytes may not be written now, as the total to add to.

        The cap evicts to make room; the floor does not: a disk that others fill is no reason to
        throw away what is there.
        """
        if self.limits.most_bytes is not None and size > self.limits.most_bytes:
            return "dropped_too_large"
        self.make_room(size)
        if self.limits.free_bytes and self._free() < self.limits.free_bytes + size:
            return "dropped_low_space"
        return None

    def make_room(self, size: int) -> None:
        """Delete the least recently used files until ``size`` more bytes fit under the cap."""
        if self.limits.most_bytes is None:
            return
        while self.used + size > self.limits.most_bytes:
            gone = self._evict()
            if gone is None:
                return
            self.totals.add(evicted_files=int(delete(gone)))

    def expire(self, now: float) -> None:
        """Delete what nobody used for the time to live."""
        if self.limits.ttl is None:
            return
        gone = [run.path for run in self.index.expire(now - self.limits.ttl)]
        while self.others and self.limits.expired(self.others[0], now):
            gone.append(self.others.popleft().path)
        self.totals.add(expired_files=sum(delete(path) for path in gone))

    def _evict(self) -> Path | None:
        """Forget the least recently used file and return its path."""
        oldest = self.index.oldest()
        if self.others and (oldest is None or self.others[0].used <= oldest):
            return self.others.popleft().path
        run = self.index.evict()
        if run is None and self.others:
            return self.others.popleft().path
        return run.path if run else None

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free
