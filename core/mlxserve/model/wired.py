"""Keep the model's memory wired on Metal, so that macOS does not page a large model out."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import mlx.core as mx

from mlxserve.options import WiredLimit
from mlxserve_hookspecs import SettingError

GB: Final = 10**9
RECOMMENDED: Final = "max_recommended_working_set_size"
WHOLE: Final = "memory_size"


def wire(limit: WiredLimit) -> str | None:
    """Set the limit for this process; return a line for the plan, or ``None`` without Metal.

    Raises:
        SettingError: ``limit`` is more than this machine allows.
    """
    if not mx.metal.is_available():
        return None if limit in ("auto", "off") else "wired limit: none, for there is no Metal here"
    return wired(limit, mx.device_info(), mx.set_wired_limit)


def wired(limit: WiredLimit, device: Mapping[str, Any], set_limit: Callable[[int], object]) -> str:
    """Set the limit by ``set_limit`` and return the plan's line.

    Args:
        limit: ``auto``, ``off`` or gigabytes.
        device: What MLX says of the machine.
        set_limit: Takes bytes.

    Raises:
        SettingError: ``limit`` is more than ``device`` allows.
    """
    most = int(device.get(RECOMMENDED) or 0)
    if limit == "off" or (limit == "auto" and not most):
        return "wired limit: off, macOS may page the model out"
    size = most if limit == "auto" else int(float(limit) * GB)
    if most and size > most:
        raise SettingError(
            f"--wired-limit {limit} is more than the {most / GB:.1f} GB that this machine allows; "
            "raise that with `sudo sysctl iogpu.wired_limit_mb=MEGABYTES`; leave macOS its share"
        )
    set_limit(size)
    whole = int(device.get(WHOLE) or 0)
    share = f" of {whole / GB:.1f}" if whole else ""
    return (
        f"wired limit: {size / GB:.1f} GB{share}; if macOS freezes or restarts, --wired-limit off"
    )
