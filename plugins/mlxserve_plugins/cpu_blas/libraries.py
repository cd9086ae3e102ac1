"""Find OpenBLAS and put it where mlx will look first."""

import ctypes
import ctypes.util
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

SOURCE: Final = Path(__file__).with_name("shim.c")
INCLUDED: Final = ("deal.h", "kernel.h")
FLAGS: Final = ("-x", "c", "-O2", "-shared", "-fPIC", "-pthread")
COMPILERS: Final = ("cc", "gcc", "clang", "g++")
COMPILE_SECONDS: Final = 60.0
SYSTEM_NAMES: Final = "{}"
NUMPY_NAMES: Final = (
    ("libscipy_openblas64_*.so*", "scipy_{}64_"),
    ("libopenblas64_*.so*", "{}64_"),
)
"""The library in numpy's wheel and how it spells a function: numpy 2, then 1.26."""
FORWARDED: Final = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "cblas_sgemv")
CACHED_BYTES: Final = 256 << 10
"""Weights that stay in one core's cache: half of the smallest second-level cache that is common."""


class NoBlasError(Exception):
    """No fast BLAS can be loaded: one line that says why."""


@frozen
class Blas:
    """An OpenBLAS that is in use.

    Attributes:
        name: For people.
        library: Its ``ctypes`` library.
        names: How it spells a function, with ``{}`` for the usual name.
    """

    name: str
    library: Any = field(repr=False)
    names: str

    def set_threads(self, count: int) -> None:
        """Let a product use ``count`` threads."""
        self.function("openblas_set_num_threads")(count)

    def threads(self) -> int:
        """Return how many threads a product uses."""
        return int(self.function("openblas_get_num_threads")())

    def function(self, name: str) -> Any:
        """Return a function by its usual name."""
        return getattr(self.library, self.names.format(name))


def system_blas(threads: int | None) -> Blas | None:
    """Load the system's OpenBLAS for all to see, if there is one with 32-bit integers.

    Args:
        threads: As for ``numpy_blas``.
    """
    name = ctypes.util.find_library("openblas")
    if name is None:
        return None
    try:
        if not hasattr(ctypes.CDLL(name), "cblas_sgemm"):
            return None
        blas = Blas(name, ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL), SYSTEM_NAMES)
    except OSError:
        return None
    if threads is not None:
        blas.set_threads(threads)
    return blas


def numpy_blas(cache: Path, threads: int | None, *, helpers: int = 0) -> Blas:
    """Load a shim for all to see that leads to numpy's OpenBLAS.

    Args:
        cache: Where the compiled shim is kept.
        threads: How many a product uses; ``None`` leaves it to the library.
        helpers: How many more cores take parts of products with a layer's weights.

    Raises:
        NoBlasError: numpy came without OpenBLAS, or the shim cannot be compiled.
    """
    path, names = numpy_library()
    try:
        # Its own symbols stay closed: its Fortran library must not take the place of mlx's.
        blas = Blas(path.name, ctypes.CDLL(str(path)), names)
        if threads is not None:
            blas.set_threads(threads)
        targets = [blas.function(name) for name in FORWARDED]
    except (OSError, AttributeError) as error:
        raise NoBlasError(f"numpy's {path.name} cannot be used: {error}") from error
    shim = _load_shim(cache)
    addresses = (ctypes.cast(target, ctypes.c_void_p) for target in targets)
    shim.mlxserve_bind_gemm(*addresses, ctypes.c_int64(CACHED_BYTES * blas.threads()))
    if helpers:
        shim.mlxserve_help(helpers)
    return blas


def numpy_library() -> tuple[Path, str]:
    """Return the OpenBLAS in numpy's wheel and how it spells a function; numpy is not imported.

    Raises:
        NoBlasError: numpy is missing, or was built otherwise.
    """
    spec = find_spec("numpy")
    if spec is None or spec.origin is None:
        raise NoBlasError("numpy is not installed, and no system OpenBLAS (libopenblas) either")
    folder = Path(spec.origin).parent.parent / "numpy.libs"
    for pattern, names in NUMPY_NAMES:
        for path in sorted(folder.glob(pattern)):
            return path, names
    raise NoBlasError("this numpy carries no OpenBLAS; install your system's libopenblas")


def compile_shim(cache: Path, compilers: Sequence[str] | None = None) -> Path:
    """Return the compiled shim, compiling it unless the same one is in ``cache``.

    Args:
        cache: Where it is kept, by a hash of its source.
        compilers: Names of compilers to try; by default ``CC`` and the usual ones.

    Raises:
        NoBlasError: No compiler works, or ``cache`` cannot be written.
    """
    sources = [path.read_text("utf-8") for path in (SOURCE, *map(SOURCE.with_name, INCLUDED))]
    facts = (*sources, *FLAGS, platform.machine(), *platform.libc_ver())
    target = cache / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.so"
    if target.is_file():
        return target
    compiler = _compiler(_candidates() if compilers is None else compilers)
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _run([*compiler, *FLAGS, str(SOURCE), "-o", str(half)])
        half.replace(target)
    except OSError as error:
        raise NoBlasError(f"the shim for numpy's OpenBLAS cannot be kept: {error}") from error
    finally:
        half.unlink(missing_ok=True)
    return target


def _load_shim(cache: Path) -> Any:
    path = compile_shim(cache)
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        # Another machine's, or damaged: once more from the source.
        path.unlink(missing_ok=True)
    try:
        return ctypes.CDLL(str(compile_shim(cache)), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise NoBlasError(f"the shim for numpy's OpenBLAS cannot be loaded: {error}") from error


def _candidates() -> tuple[str, ...]:
    own = os.environ.get("CC")
    return (own, *COMPILERS) if own else COMPILERS


def _compiler(names: Sequence[str]) -> list[str]:
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    raise NoBlasError(
        "no C compiler for the shim onto numpy's OpenBLAS; install gcc, or libopenblas"
    )


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoBlasError(f"{command[0]} took over {COMPILE_SECONDS:.0f} s for the shim") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise NoBlasError(f"{command[0]} cannot compile the shim: {lines[-1]}")
