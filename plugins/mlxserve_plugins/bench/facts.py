"""What a benchmark ran on: machine, versions, date. Without it figures mean nothing."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("mlxserve", "mlx", "mlx-lm", "mlx-cuda-13", "mlx-cuda-12", "transformers")
GPU_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader",
)
MAC_CHIP: Final = ("sysctl", "-n", "machdep.cpu.brand_string")


def about(command: Sequence[str]) -> dict[str, Any]:
    """Return where, when and with what a benchmark runs.

    Args:
        command: The words of the command line.
    """
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **dict(versions())},
    }


def machine(run: Callable[[Sequence[str]], str] | None = None) -> dict[str, Any]:
    """Return the machine as a reader wants to know it.

    Args:
        run: Runs a program and returns what it says; for tests.
    """
    ask = run or _said
    found = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu() or ask(MAC_CHIP) or platform.processor(),
        "cores": _cores(),
        "gpu": "; ".join(ask(GPU_QUERY).splitlines()),
    }
    return {key: value for key, value in found.items() if value}


def versions() -> Iterator[tuple[str, str]]:
    """Yield what is installed of what matters."""
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def _said(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):  # there is no such program, or no such device
        return ""
    return done.stdout.strip()
