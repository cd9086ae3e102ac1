"""What there is to look at, one function for each area; none changes anything."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from attrs import frozen

HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
GIB: Final = 1 << 30
GB: Final = 10**9
ROOMY: Final = 0.8
"""Share of memory that weights may take and leave room for KV and everything else."""

PROBE: Final = (
    "import mlx.core as mx; x = mx.ones((8, 8)); mx.eval(x @ x); print(mx.default_device())"
)
PATIENCE_S: Final = 120.0


@frozen
class Finding:
    """What was found in one area.

    Attributes:
        area: ``machine``, ``backend``, ``settings``, ``model``, ``memory``, ``port``, ``disk``
            or ``plugins``.
        state: ``ok``; ``warning``, the server starts and something is worse than it could be; or
            ``problem``, it does not start.
        what: What was found.
        remedy: What to do; empty where nothing is.
    """

    area: str
    state: Literal["ok", "warning", "problem"]
    what: str
    remedy: str = ""


def machine() -> Iterator[Finding]:
    """Say what machine this is."""
    cores, memory = os.cpu_count() or 1, total_memory() / GIB
    what = f"{platform.system()} {platform.machine()}, {cores} cores, {memory:.1f} GiB of memory"
    yield Finding("machine", "ok", f"{what}, Python {platform.python_version()}")


def backend() -> Iterator[Finding]:
    """Compute something with mlx, in a process of its own: it may die of it."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        yield Finding("backend", "ok", f"mlx computes on {done.stdout.strip()}")
        return
    said = done.stderr.strip().rpartition("\n")[2] or f"it ended with status {done.returncode}"
    remedy = "on a Mac: pip install mlx; else: pip install 'mlxserve[cpu]' or 'mlxserve[cuda]'"
    yield Finding("backend", "problem", f"mlx does not compute: {said}", remedy)


def model(reference: str) -> Iterator[Finding]:
    """Say whether the model is here, or has to be fetched."""
    path = Path(reference).expanduser()
    if path.is_file():
        yield Finding("model", "ok", f"{path} is a file")
    elif path.is_dir():
        yield from _folder(path)
    elif reference.startswith(("/", ".", "~")):
        yield Finding("model", "problem", f"{path} is not there", "set --model to what is")
    elif cached(reference):
        yield Finding("model", "ok", f"{reference} is in the cache")
    elif os.environ.get("HF_HUB_OFFLINE") and "/" in reference:
        remedy = "unset it once, or copy the model and set --model to its folder"
        yield Finding(
            "model",
            "problem",
            f"{reference} is not in the cache, and HF_HUB_OFFLINE is set",
            remedy,
        )
    else:
        yield Finding(
            "model", "ok", f"{reference} is fetched at the first start, if it is not here"
        )


def memory(reference: str) -> Iterator[Finding]:
    """Compare the weights with the memory, where the weights are here."""
    path = Path(reference).expanduser()
    folder = path if path.is_dir() else cached(reference)
    weights = sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder else 0
    if path.is_file():
        weights = path.stat().st_size
    if not weights:
        return
    total = total_memory()
    what = f"weights of {weights / GB:.2f} GB, memory of {total / GB:.1f} GB"
    if weights > total:
        remedy = "take a smaller model, or one of fewer bits"
        yield Finding("memory", "problem", f"the model does not fit: {what}", remedy)
    elif weights > ROOMY * total:
        remedy = "lower --num-blocks, or take a model of fewer bits"
        yield Finding("memory", "warning", f"little is left for KV: {what}", remedy)
    else:
        yield Finding("memory", "ok", what)


def port(host: str, number: int) -> Iterator[Finding]:
    """Say whether the server could listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
            probe.listen()
    except OSError as error:
        remedy = "stop what listens there, or set --port (and --host)"
        yield Finding("port", "problem", f"{host}:{number} cannot be had: {error.strerror}", remedy)
    else:
        yield Finding("port", "ok", f"{host}:{number} is free")


def disk(folder: str, reserve_gb: float) -> Iterator[Finding]:
    """Say whether KV blocks can be kept on disk."""
    wanted = Path(folder).expanduser()
    place = next(path for path in (wanted, *wanted.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = "set --ssd-cache-dir to a folder that this user may write, or --no-ssd"
        yield Finding("disk", "problem", f"{place}: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(place).free / GB
    if free <= reserve_gb:
        what = f"{wanted}: {free:.1f} GB are free, and {reserve_gb:g} GB are to stay free"
        remedy = "no block is kept there: make room, or lower --ssd-min-free-gb"
        yield Finding("disk", "warning", what, remedy)
    else:
        yield Finding("disk", "ok", f"{wanted}: {free:.1f} GB are free")


def plugins(rows: Sequence[Mapping[str, Any]], complaint: str) -> Iterator[Finding]:
    """Say which plugins are broken, and which stand in for built-ins."""
    if not rows:
        yield Finding("plugins", "problem", complaint or "there are none", "install mlxserve anew")
        return
    for row in rows:
        if row["error"] and row["active"]:
            yield Finding(
                "plugins", "problem", row["error"], f"do without: --plugins no:{row['name']}"
            )
        elif row["error"]:
            yield Finding("plugins", "warning", row["error"])
        elif row["replaces_builtin"] and row["active"]:
            what = f"{row['name']} is that of {row['distribution']}, not the built-in"
            yield Finding("plugins", "ok", what)
    active = sum(bool(row["active"]) for row in rows)
    yield Finding("plugins", "ok", f"{active} of {len(rows)} installed plugins run")


def total_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cached(reference: str) -> Path | None:
    """Return the folder of a hub model that was fetched before."""
    if not HUB_ID.fullmatch(reference):
        return None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow

    found = try_to_load_from_cache(reference, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _folder(path: Path) -> Iterator[Finding]:
    missing = [
        what
        for what, pattern in (("config.json", "config.json"), ("weights", "*.safetensors"))
        if not list(path.glob(pattern))
    ]
    if missing:
        remedy = "set --model to a folder that mlx-lm loads"
        yield Finding("model", "problem", f"{path} has no {' and no '.join(missing)}", remedy)
    else:
        yield Finding("model", "ok", f"{path} has configuration and weights")
