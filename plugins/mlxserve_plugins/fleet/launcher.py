"""Run ``mlxserve`` so that it ends, with all it started, when the front of its fleet is gone."""

import os
import runpy

from mlxserve_hookspecs import PROJECT
from mlxserve_plugins.distributed import leash
from mlxserve_plugins.distributed.environment import LEASH
from mlxserve_plugins.distributed.shim import end_all


def main() -> None:
    """Hold the leash, then be ``python -m mlxserve`` with the same words."""
    leash.hold(int(os.environ.pop(LEASH)), end_all)
    runpy.run_module(PROJECT, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
