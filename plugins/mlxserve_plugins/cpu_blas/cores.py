"""How many cores a computation may keep busy."""

import os
from pathlib import Path
from typing import Final

CPUS: Final = Path("/sys/devices/system/cpu")
QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpus: Path = CPUS, quota: Path = QUOTA) -> int:
    """Return the physical cores that this process may use, within its container's quota.

    Args:
        cpus: Linux's folder of CPUs.
        quota: The control group's ``cpu.max``: microseconds of CPU per period, or ``max``.
    """
    allowed = os.sched_getaffinity(0)
    # Two threads of one core share its vector units: a second one adds nothing to a product.
    physical = {_siblings(cpus, number) for number in allowed}
    return max(1, min(len(physical), _quota(quota) or len(physical)))


def _siblings(cpus: Path, number: int) -> str:
    try:
        return (cpus / f"cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _quota(path: Path) -> int | None:
    try:
        microseconds, period = path.read_text().split()
        return max(1, round(int(microseconds) / int(period)))
    except (OSError, ValueError):
        return None
