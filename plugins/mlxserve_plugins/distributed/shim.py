"""Run a Python script, ``mlx.launch``, that ends with all it started when its parent is gone."""

import os
import runpy
import signal
import sys

from mlxserve_plugins.distributed import leash
from mlxserve_plugins.distributed.environment import LEASH


def end_all(status: int) -> None:
    """Kill this process and its group: the ``ssh`` of every host, and with it the rank there."""
    del status
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the script that the first argument names, with the others."""
    leash.hold(int(os.environ.pop(LEASH)), end_all)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
