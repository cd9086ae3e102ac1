"""Show how loading goes: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import structlog
from attrs import define

log = structlog.get_logger("mlxserve.loading")


class ShownProgress(Protocol):
    """A ``Progress`` that has an end."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Show how far ``what`` has come."""

    def close(self) -> None:
        """Leave the output tidy."""


def make_progress(stream: TextIO) -> ShownProgress:
    """Return what suits ``stream``."""
    return Bars(stream) if stream.isatty() else Lines()


@define(eq=False)
class Bars:
    """Draws one bar for each thing that goes on, one after the other."""

    stream: TextIO
    _bar: Any = None
    _what: str | None = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Draw the bar of ``what``."""
        from tqdm import tqdm  # noqa: PLC0415 - not needed when nothing is downloaded

        if what != self._what:
            self.close()
            self._bar = tqdm(total=total, desc=what, file=self.stream, unit="", unit_scale=True)
            self._what = what
        if self._bar is None:  # finished before
            return
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if total is not None and done >= total:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """End the bar that is being drawn."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, None


@define(eq=False)
class Lines:
    """Logs the start and the end of each thing, and how far it is every few seconds.

    Attributes:
        interval: Seconds between two lines about the same thing.
        clock: Returns monotonic seconds.
    """

    interval: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _what: str | None = None
    _told_at: float = 0.0
    _ended: bool = False

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Log if there is something new to say."""
        new, ended = what != self._what, total is not None and done >= total
        due = self.clock() - self._told_at >= self.interval
        if new or (not self._ended and (ended or due)):
            log.info("loading", what=what, done=done, total=total)
            self._what, self._told_at = what, self.clock()
        self._ended = ended

    def close(self) -> None:
        """Nothing is left open."""
