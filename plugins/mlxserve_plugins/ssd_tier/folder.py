"""The folder of one rank: who holds it, what lies in it, and how a file gets in and out.

``CACHE_DIR/rank_0/NAMESPACE/HASH.safetensors``; beside the namespaces ``quarantine/`` and ``lock``.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from mlxserve_hookspecs import Block, SettingError
from mlxserve_plugins.ssd_tier.runfile import (
    PREFIX_BYTES,
    SUFFIX,
    StoredBlock,
    TornFileError,
    checksum,
    header_bytes,
    parse,
)

LOCK: Final = "lock"
QUARANTINE: Final = "quarantine"
TEMPORARY: Final = ".tmp"
FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
NAMESPACE_CHARACTERS: Final = 64
LOCK_ATTEMPTS: Final = 3
LOCK_PAUSE_S: Final = 0.02
READ_AT_ONCE: Final = 1 << 30
"""More than this in one call is an error on macOS."""


class FolderInUseError(SettingError):
    """Another process holds the folder."""


@frozen
class StoredFile:
    """A file of the tier: its size, and when it was last used (Unix seconds)."""

    path: Path
    size: int
    used: float


@define
class DirectoryLock:
    """Keeps a folder to one process, for as long as it lives: the kernel lets go after a crash."""

    path: Path
    _descriptor: int | None = field(default=None, init=False)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: Another process holds it.
            OSError: The folder cannot be used.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take(descriptor)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; does nothing when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def server(self) -> str:
        """The process that holds the lock, as text; empty if nobody does."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.holder or "unknown"
        except OSError:
            return ""
        return ""

    @property
    def holder(self) -> str:
        """The process id that was last written into the lock, as text; empty if there is none."""
        try:
            return self.path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def lock(rank_folder: Path) -> DirectoryLock:
    """Take the lock of a rank's folder.

    Raises:
        FolderInUseError: Another server holds it.
        SettingError: The folder cannot be used.
    """
    taken = DirectoryLock(rank_folder / LOCK)
    try:
        taken.acquire()
    except BlockingIOError as error:
        holder = f"process {taken.holder}" if taken.holder else "another process"
        raise FolderInUseError(
            f"{rank_folder} is in use by {holder}; stop it, or name another --ssd-cache-dir"
        ) from error
    except OSError as error:
        raise SettingError(
            f"--ssd-cache-dir: {rank_folder} cannot be used ({error.strerror}); "
            "name another, or turn it off with --no-ssd"
        ) from error
    return taken


def rank_name(rank: int) -> str:
    """Return the name of a rank's folder."""
    return f"rank_{rank}"


def namespace_name(namespace: bytes) -> str:
    """Return the name of a namespace's folder."""
    return namespace.hex()[:NAMESPACE_CHARACTERS] or "none"


def namespaces(rank_folder: Path) -> list[Path]:
    """Return the folders of all namespaces."""
    if not rank_folder.is_dir():
        return []
    return sorted(p for p in rank_folder.iterdir() if p.is_dir() and p.name != QUARANTINE)


def run_files(folder: Path) -> list[StoredFile]:
    """Return the finished files of a folder, least recently used first."""
    found = [file for path in _children(folder, SUFFIX) for file in _look(path)]
    return sorted(found, key=lambda file: file.used)


def leftovers(rank_folder: Path) -> list[Path]:
    """Return what writers that were killed left unfinished."""
    return [path for folder in namespaces(rank_folder) for path in _children(folder, TEMPORARY)]


def publish(path: Path, buffers: Iterable[memoryview], *, durable: bool) -> None:
    """Write a file that is there whole or not at all.

    Args:
        path: Replaced if it exists.
        buffers: Its contents.
        durable: Return only when the file and its name would survive a power cut.

    Raises:
        OSError: It could not be written; nothing is left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + TEMPORARY)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, for its mode
            file.writelines(buffers)
            if durable:
                file.flush()
                _sync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def read_blocks(descriptor: int) -> tuple[StoredBlock, ...]:
    """Return what an open file's header lists.

    Raises:
        TornFileError: It is not, or no longer, what was written.
        OSError: It cannot be read.
    """
    size = os.fstat(descriptor).st_size
    length = header_bytes(os.pread(descriptor, PREFIX_BYTES, 0), size)
    return parse(os.pread(descriptor, length, 0), size)


def read_block(descriptor: int, stored: StoredBlock) -> Block:
    """Return one block of an open file.

    Raises:
        TornFileError: Its bytes are not, or no longer, what was written.
        OSError: It cannot be read.
    """
    arrays, at = [], stored.start
    for shape in stored.shapes:
        arrays.append(_read(descriptor, at, shape.nbytes))
        at += shape.nbytes
    if checksum(arrays) != stored.crc32:
        raise TornFileError(f"the block at byte {stored.start} has another checksum")
    return Block(key=stored.key, arrays=tuple(arrays))


def headers(path: Path) -> Sequence[StoredBlock]:
    """Return what a file's header lists; raises like ``read_blocks``."""
    with path.open("rb") as file:
        return read_blocks(file.fileno())


def verify_file(path: Path) -> Sequence[StoredBlock]:
    """Read all of a file and return its blocks.

    Raises:
        TornFileError: It is not, or no longer, what was written.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        blocks = read_blocks(file.fileno())
        for block in blocks:
            read_block(file.fileno(), block)
    return blocks


def quarantine(path: Path, rank_folder: Path) -> None:
    """Move a file to where nobody reads it, for an operator to look at.

    Raises:
        OSError: It is gone already, or cannot be moved.
    """
    aside = rank_folder / QUARANTINE
    aside.mkdir(mode=0o700, exist_ok=True)
    path.replace(aside / f"{path.parent.name[:16]}-{path.name}")


def delete(path: Path) -> bool:
    """Remove a file, and its folder if that is empty now; return whether the file was there."""
    try:
        path.unlink()
    except OSError:
        return False
    with suppress(OSError):
        path.parent.rmdir()
    return True


def _take(descriptor: int) -> None:
    """Lock; tries again for a moment, as ``mlxserve cache stats`` may be looking at the lock."""
    for left in reversed(range(LOCK_ATTEMPTS)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(LOCK_PAUSE_S)
        else:
            return


def _children(folder: Path, suffix: str) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(suffix)]
    except OSError:
        return []


def _look(path: Path) -> Iterator[StoredFile]:
    with suppress(OSError):  # a server may delete it meanwhile
        status = path.stat()
        yield StoredFile(path, status.st_size, status.st_mtime)


def _read(descriptor: int, start: int, size: int) -> bytes:
    """Return ``size`` bytes: without a copy, if the system gives them in one piece."""
    parts: list[bytes] = []
    while size:
        part = os.pread(descriptor, min(size, READ_AT_ONCE), start)
        if not part:
            raise TornFileError("ends too early")
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sync(descriptor: int) -> None:
    """Force a file to the medium: on macOS ``fsync`` stops at the drive's own cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):  # network and foreign file systems do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
