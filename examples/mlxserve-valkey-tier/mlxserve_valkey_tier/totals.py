"""Running totals that several threads add to, and complaints that do not fill the log."""

import time
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Final

import structlog

log = structlog.get_logger("mlxserve.valkey")

NAMES: Final = (
    "blocks_written",
    "bytes_written",
    "blocks_read",
    "bytes_read",
    "gone_blocks",
    "torn_blocks",
    "late_fetches",
    "failed_fetches",
    "dropped_queue_full",
    "dropped_server_full",
    "dropped_server_gone",
    "dropped_refused",
    "dropped_closing",
)
"""Every total that ``stats`` shows, also while it is 0."""

DROPPED: Final = tuple(name for name in NAMES if name.startswith("dropped_"))
COMPLAIN_EVERY_S: Final = 60.0


class Totals:
    """Counts. Safe on any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
        self._complained: dict[str, float] = {}

    def add(self, **amounts: int) -> None:
        """Add ``amounts`` by name."""
        with self._lock:
            self._counts.update(amounts)

    def complain(self, event: str, **facts: object) -> None:
        """Log a trouble, the same one once a minute."""
        now = time.monotonic()
        with self._lock:
            quiet = now < self._complained.get(event, 0.0)
            if not quiet:
                self._complained[event] = now + COMPLAIN_EVERY_S
        if not quiet:
            log.warning(event, **facts)

    def snapshot(self) -> Mapping[str, float]:
        """Return every total."""
        with self._lock:
            return {name: float(count) for name, count in self._counts.items()}

    @property
    def dropped(self) -> int:
        """Blocks that were taken or offered and never written, for whatever reason."""
        with self._lock:
            return sum(self._counts[name] for name in DROPPED)
