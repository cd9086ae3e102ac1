"""End a rank when its launcher is gone, however that ended."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from threading import Thread
from typing import Final

ORPHANED: Final = 128 + signal.SIGHUP
"""Exit status of a rank whose launcher is gone."""

PR_SET_PDEATHSIG: Final = 1


def hold(fd: int, leave: Callable[[int], None] = os._exit) -> Thread:
    """Leave the process as soon as ``fd``, the read end of the launcher's pipe, has ended.

    Nobody writes to that pipe, and only the launcher has its other end: it ends with the
    launcher, also where that was killed. The thread that waits for it does not keep the process.
    """
    os.set_inheritable(fd, False)
    die_with_parent()
    thread = Thread(target=_wait, args=(fd, leave), name="leash", daemon=True)
    thread.start()
    return thread


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: also where it is stopped or stuck."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(fd: int, leave: Callable[[int], None]) -> None:
    while os.read(fd, 1):
        pass
    leave(ORPHANED)
