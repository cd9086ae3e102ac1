"""Hand an NVIDIA GPU more operations at once: fewer, larger CUDA graphs for each step.

mlx's CUDA backend puts a number of operations into a graph and launches it; a decode step has
hundreds of them. How many go into one is read from the environment when mlx first runs.
"""

import os
import sys

from attrs import define, frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import hookimpl, option
from mlxserve_plugins.cpu_blas import has_gpu, has_gpu_build

VARIABLE = "MLX_MAX_OPS_PER_BUFFER"


@frozen
class CudaGraphsOptions:
    """CUDA graphs; only on Linux with an NVIDIA GPU."""

    ops: int = option(
        100,
        f"operations in a CUDA graph; 0 leaves it to mlx, and {VARIABLE} goes before",
        flag="--cuda-graph-ops",
        check=and_(ge(0), le(250)),
    )


@define
class CudaGraphs:
    """Sets mlx's variable before mlx is imported, unless the user has."""

    options: CudaGraphsOptions

    @hookimpl
    def preparing(self) -> None:
        """Set it where it means something."""
        if self.options.ops and sys.platform == "linux" and has_gpu_build() and has_gpu():
            os.environ.setdefault(VARIABLE, str(self.options.ops))
