"""Files and folders in the user's cache that are whole or not there, however the process ends."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from mlxserve_hookspecs import Progress

MANIFEST: Final = "manifest.json"
CHUNK: Final = 1 << 22


def _silent(what: str, done: int, total: int | None) -> None:
    del what, done, total


def cache_home() -> Path:
    """Return where this server keeps what it can make again: below ``XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mlxserve"


@contextmanager
def locked(target: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of ``target``, a file beside it, against other processes.

    The system takes the lock back from a process that dies.

    Args:
        target: What is to be made or changed.
        waiting: Called once if another process holds the lock.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def replaced(target: Path, facts: Mapping[str, Any], tell: Progress = _silent) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target``, with a manifest, if nothing is raised.

    To be called under the lock of ``target``: what killed processes left behind is removed.

    Args:
        target: The folder; an older one gives way at the last moment.
        facts: What it is made from; ``intact`` compares them.
        tell: Told how far the checksums are.
    """
    prefix = f".{target.name}.making-"
    for left in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    made = Path(mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield made
        total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        _seal(made, facts, _counter(f"checking {target.name}", total, tell))
        if target.exists():
            target.rename(made.with_name(f"{made.name}.old"))
        made.rename(target)
    finally:
        for left in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left)


def intact(target: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether ``target`` was made from ``facts`` and is as it was made.

    A file of unchanged size and time counts as unchanged; any other is read and compared.
    """
    try:
        manifest = json.loads((target / MANIFEST).read_text("utf-8"))
        return bool(
            manifest["facts"] == json.loads(json.dumps(facts))
            and all(_unchanged(target / name, was) for name, was in manifest["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader finds all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(text, "utf-8")
    half.replace(path)


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file's content in hexadecimal.

    Args:
        path: The file.
        advance: Told how many bytes more were read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def remembered_sha256(path: Path, memory: Path, tell: Progress = _silent) -> str:
    """Return the sha256 of ``path``, read again only if its size, time or place changed.

    Args:
        path: The file.
        memory: A folder that remembers hashes.
        tell: Told how far the reading is.
    """
    stat = path.stat()
    facts = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ctime_ns}"
    note = memory / hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
    try:
        known = note.read_text("utf-8")
    except OSError:
        known = ""
    if len(known) != hashlib.sha256().digest_size * 2:
        known = sha256_of(path, _counter(f"checking {path.name}", stat.st_size, tell))
        write_whole(note, known)
    return known


def _seal(folder: Path, facts: Mapping[str, Any], advance: Callable[[int], None]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _to_disk(path)
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256_of(path, advance),
        }
    manifest = folder / MANIFEST
    manifest.write_text(
        json.dumps({"facts": dict(facts), "files": files}, indent=2) + "\n", "utf-8"
    )
    _to_disk(manifest)


def _counter(what: str, total: int, tell: Progress) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tell(what, done, total)

    return advance


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _unchanged(path: Path, was: Mapping[str, Any]) -> bool:
    stat = path.stat()
    if stat.st_size != was["size"]:
        return False
    return bool(stat.st_mtime_ns == was["mtime_ns"] or sha256_of(path) == was["sha256"])
