"""How a process ends: what a user is told, and when the interpreter is not to take its time."""

import os
import sys
import traceback
from typing import Any, Final, NoReturn

from mlxserve.door import PluginCrashError
from mlxserve_hookspecs import MlxserveError

MISTAKE: Final = 2
"""The exit status of a user's mistake."""


def report(error: MlxserveError) -> int:
    """Say in one line what is wrong; return the exit status."""
    if isinstance(error, PluginCrashError) and error.__cause__:
        traceback.print_exception(error.__cause__)
    sys.stderr.write(f"mlxserve: {error}\n")
    return MISTAKE


def mlx_ends_badly() -> bool:
    """Return whether the interpreter cannot simply end, since mlx was used.

    mlx 0.32's CUDA backend destroys threads that still run when the process's own statics go:
    ``std::terminate`` and status 134 after everything has been written, in mlx_lm.server as here.
    """
    mlx: Any = sys.modules.get("mlx.core")
    return mlx is not None and bool(mlx.cuda.is_available())


def leave_at_once(status: int) -> NoReturn:
    """End the process without waiting for the engine's thread, which may be far from a pause."""
    from mlxserve.serve.logging import release_held  # noqa: PLC0415 - who only reports needs none

    release_held()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
