"""Ask MLX what it can do, in another process: a launcher does not import it."""

import json
import subprocess
import sys
from typing import Any, Final

from attrs import frozen

TIMEOUT: Final = 60.0
SCRIPT: Final = """
import json, sys
import mlx.core as mx
gpus = mx.device_count(mx.gpu) if hasattr(mx, "device_count") and mx.cuda.is_available() else 0
print(json.dumps({"is_available": mx.distributed.is_available(sys.argv[1]), "gpus": gpus}))
"""


@frozen(kw_only=True)
class Abilities:
    """What MLX can do on this machine.

    Attributes:
        is_available: Whether it was built with the backend.
        gpus: NVIDIA GPUs that it sees.
    """

    is_available: bool
    gpus: int = 0


def abilities(backend: str) -> Abilities:
    """Return what MLX says about ``backend``; nothing is available where MLX cannot start."""
    argv = [sys.executable, "-c", SCRIPT, backend]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=TIMEOUT)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError):
        return Abilities(is_available=False)
    return Abilities(**found)
