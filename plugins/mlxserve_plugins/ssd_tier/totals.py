"""Running totals that several threads add to."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Final

NAMES: Final = (
    "bytes_written",
    "blocks_written",
    "files_written",
    "bytes_read",
    "blocks_read",
    "hit_blocks",
    "duplicate_blocks",
    "dropped_queue_full",
    "dropped_disk_full",
    "dropped_low_space",
    "dropped_too_large",
    "dropped_write_error",
    "dropped_closing",
    "write_retries",
    "read_errors",
    "quarantined_files",
    "evicted_files",
    "expired_files",
    "removed_temporaries",
)
"""Every total that ``stats`` shows, also while it is 0."""

DROPPED: Final = tuple(name for name in NAMES if name.startswith("dropped_"))


class Totals:
    """Counts. Safe on any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(NAMES, 0))

    def add(self, **amounts: int) -> None:
        """Add ``amounts`` by name."""
        with self._lock:
            self._counts.update(amounts)

    def snapshot(self) -> Mapping[str, float]:
        """Return every total."""
        with self._lock:
            return {name: float(count) for name, count in self._counts.items()}

    @property
    def dropped(self) -> int:
        """Blocks that were taken and never written, for whatever reason."""
        with self._lock:
            return sum(self._counts[name] for name in DROPPED)
