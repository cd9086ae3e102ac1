"""End a rank when its launcher is gone, however that ended."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from threading import Thread
from typing import Final

INTERRUPT: Final = b"\x03"
"""What a terminal makes of Ctrl-C: the launcher's only word, where no signal of its reaches."""

ORPHANED: Final = 128 + signal.SIGHUP
"""Exit status of a rank whose launcher is gone."""

PR_SET_PDEATHSIG: Final = 1
STDIN: Final = 0


def hold(fd: int, leave: Callable[[int], None] = os._exit) -> Thread:
    """Leave the process as soon as ``fd``, the read end of the launcher's pipe, has ended.

    Only the launcher has the other end: it ends with the launcher, also where that was killed.
    Through ``mlx.launch`` it is stdin, and its thread there is no parent to die with. The thread
    that waits does not keep the process.
    """
    os.set_inheritable(fd, False)
    if fd != STDIN:
        die_with_parent()
    thread = Thread(target=_wait, args=(fd, leave), name="leash", daemon=True)
    thread.start()
    return thread


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: also where it is stopped or stuck."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(fd: int, leave: Callable[[int], None]) -> None:
    while word := _read(fd):
        if word == INTERRUPT:
            os.kill(os.getpid(), signal.SIGINT)
    leave(ORPHANED)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1)
    except OSError:  # a terminal that was hung up
        return b""
