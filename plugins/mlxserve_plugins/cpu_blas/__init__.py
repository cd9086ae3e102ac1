"""Make matrix products fast on a Linux machine without a GPU.

mlx's CPU wheel for Linux carries a reference BLAS. A library that is loaded with its symbols open
to all, before mlx, takes its place: the OpenBLAS in numpy's wheel, behind a shim that knows how to
decode fast, else the system's.
"""

import os
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import hookimpl
from mlxserve_plugins.cpu_blas.cores import usable_cores
from mlxserve_plugins.cpu_blas.libraries import Blas, NoBlasError, numpy_blas, system_blas
from mlxserve_plugins.folders import cache_home

GPU_BUILDS: Final = ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")
MOST_HELPERS: Final = 15  # memory is busy by then
THREAD_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


@define
class CpuBlas:
    """Loads a fast BLAS before mlx is imported.

    Attributes:
        cache: Where the compiled shim is kept.
    """

    cache: Path = field(factory=lambda: cache_home() / "cpu-blas")

    @hookimpl
    def preparing(self) -> None:
        """Load it, or say why products stay slow."""
        if not is_needed(sys.platform, has_gpu_build(), has_gpu()):
            return
        # Not worth its import time on a machine that needs nothing.
        import structlog  # noqa: PLC0415

        log = structlog.get_logger("mlxserve.cpu_blas")
        try:
            blas = fast_blas(self.cache, loaded=sys.modules, threads=chosen_threads())
        except NoBlasError as error:
            log.warning("matrix products stay slow", reason=str(error))
            return
        if blas is None:
            return
        log.info("matrix products are fast", blas=blas.name, threads=blas.threads())


def is_needed(platform: str, gpu_build: bool, gpu: bool) -> bool:
    """Return whether mlx will compute on the CPU with the BLAS of its Linux wheel."""
    return platform == "linux" and not (gpu_build and gpu)


def has_gpu_build() -> bool:
    """Return whether a build of mlx for NVIDIA's GPUs is installed."""
    return any(_is_installed(name) for name in GPU_BUILDS)


def has_gpu() -> bool:
    """Return whether the machine shows an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def chosen_threads() -> int | None:
    """Return how many threads a product is to use; ``None`` if the user has said so."""
    if any(os.environ.get(name) for name in THREAD_VARIABLES):
        return None
    # One core stays free for the server, but for large products, with which it helps. A product
    # ends when its last thread does: on two cores with other work, two threads made a token take
    # 0.3 to 1.3 s, one 0.09 s.
    return max(1, usable_cores() - 1)


def chosen_helpers(threads: int | None) -> int:
    """Return how many cores help with products that are dealt out; none where the user counts.

    Of three and more one stays free for the server; of two the second does both.
    """
    cores = usable_cores()
    if threads is None or cores == 1:
        return 0
    return min(max(cores - 2, 1), MOST_HELPERS)


def fast_blas(cache: Path, loaded: Collection[str], threads: int | None) -> Blas | None:
    """Load a fast BLAS for all to see; ``None`` if somebody has preloaded one already.

    Args:
        cache: Where the compiled shim is kept.
        loaded: Names of the modules that are imported so far.
        threads: How many a product uses; ``None`` leaves it to the library.

    Raises:
        NoBlasError: There is none, or it is too late.
    """
    if "mlx.core" in loaded:
        raise NoBlasError("mlx was imported before; a library cannot take its BLAS's place now")
    if _preloaded():
        return None
    try:
        return numpy_blas(cache, threads, helpers=chosen_helpers(threads))
    except NoBlasError:
        if blas := system_blas(threads):
            return blas
        raise


def _preloaded() -> bool:
    import ctypes  # noqa: PLC0415 - not needed to list plugins

    return hasattr(ctypes.CDLL(None), "cblas_sgemm")


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
