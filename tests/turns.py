"""Lets a test have the machine for itself while several workers run tests."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import define, field


@define
class Turns:
    """Two locked files that all workers of one run share.

    A test holds ``room`` while it runs: with others, or alone. It comes in through ``door``, which
    one that waits for an empty room keeps shut, so that its turn comes.

    Attributes:
        run: Names the run.
    """

    run: str
    door: IO[str] = field(init=False)
    room: IO[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.door, self.room = (path.open("a") for path in self.paths)

    @property
    def paths(self) -> tuple[Path, Path]:
        """The files, in the system's folder for what may be lost."""
        folder = Path(tempfile.gettempdir())
        return folder / f"{self.run}.door", folder / f"{self.run}.room"

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Run in a turn, ``alone`` or with other workers."""
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.flock(self.door, how)
        fcntl.flock(self.room, how)
        fcntl.flock(self.door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Delete the files; a worker that still has them open goes on with them."""
        for path, file in zip(self.paths, (self.door, self.room), strict=True):
            path.unlink(missing_ok=True)
            file.close()
