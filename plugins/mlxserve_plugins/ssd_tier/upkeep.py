"""What ``mlxserve cache`` does. ``prune`` and ``clear`` need the folder to themselves."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from attrs import frozen

from mlxserve_plugins.ssd_tier import SsdTierOptions
from mlxserve_plugins.ssd_tier.folder import (
    LOCK,
    QUARANTINE,
    DirectoryLock,
    StoredFile,
    delete,
    leftovers,
    lock,
    namespaces,
    quarantine,
    run_files,
    verify_file,
)
from mlxserve_plugins.ssd_tier.folder import headers as read_headers
from mlxserve_plugins.ssd_tier.runfile import TornFileError
from mlxserve_plugins.ssd_tier.space import DAY, Limits

T = TypeVar("T")
SHOWN: Final = 12
MB: Final = 10**6


@frozen
class Torn:
    """A file that is not what was written, and why."""

    file: StoredFile
    reason: str


def stats(options: SsdTierOptions, as_json: bool) -> int:
    """Print one line per namespace, and what is beside them."""
    rows = [row for folder in _ranks(options) for row in _namespace_rows(folder)]
    if as_json:
        return _print(_json({"folder": str(_root(options)), "namespaces": rows}))
    lines = [
        f"{row['rank']}/{str(row['namespace'])[:SHOWN]}  {row['files']} files  "
        f"{row['blocks']} blocks  {row['bytes'] / MB:.1f} MB" + _extra(row)
        for row in rows
    ]
    total = sum(row["bytes"] for row in rows)
    free = shutil.disk_usage(_existing(_root(options))).free
    lines += [f"{_root(options)}: {total / MB:.1f} MB, {free / MB:.0f} MB free"]
    return _print("\n".join(lines))


def ls(options: SsdTierOptions, as_json: bool) -> int:
    """Print one line per file: namespace, name, size, blocks, tokens, age."""
    now = time.time()
    rows = [_file_row(file, now) for file in _progress(_files(options), "headers")]
    rows.sort(key=lambda row: row["age_s"])
    if as_json:
        return _print(_json(rows))
    lines = [
        f"{row['namespace'][:SHOWN]}  {row['name'][:SHOWN]}  {row['bytes'] / MB:8.2f} MB  "
        f"{row['blocks']:3} blocks  {row['tokens']:5} tokens  {row['age_s'] / DAY:.2f} days"
        for row in rows
    ]
    return _print("\n".join(lines or [f"{_root(options)}: no files"]))


def verify(options: SsdTierOptions, as_json: bool) -> int:
    """Read everything; print what is torn; exit status 1 if anything is."""
    files = _files(options)
    torn = _torn(files)
    if as_json:
        found = [{"file": str(it.file.path), "reason": it.reason} for it in torn]
        _print(_json({"files": len(files), "torn": found}))
    else:
        lines = [f"{it.file.path}: {it.reason}" for it in torn]
        hint = "; mlxserve cache prune removes them" if torn else ""
        _print("\n".join([*lines, f"{len(files)} files, {len(torn)} torn{hint}"]))
    return 1 if torn else 0


def prune(options: SsdTierOptions, as_json: bool) -> int:
    """Delete leftovers, the quarantine, the torn, the outdated, and the oldest over the cap.

    Raises:
        SettingError: A server uses the folder.
    """
    limits = Limits.read(options.max_size_gb, options.min_free_gb, options.ttl_days)
    with _held(options) as ranks:
        gone = {"leftovers": 0, "quarantined": 0, "torn": 0, "expired": 0, "over_size": 0}
        for rank in ranks:
            gone["leftovers"] += _delete(leftovers(rank))
            aside = [it.file.path for it in _torn(_rank_files(rank))]
            for path in aside:
                quarantine(path, rank)
            gone["torn"] += len(aside)
            gone["quarantined"] += _delete(f.path for f in run_files(rank / QUARANTINE))
            gone["expired"] += _delete(_expired(_rank_files(rank), limits))
            gone["over_size"] += _delete(_over(_rank_files(rank), limits))
    if as_json:
        return _print(_json(gone))
    return _print(", ".join(f"{name}: {count}" for name, count in gone.items()))


def clear(options: SsdTierOptions, as_json: bool) -> int:
    """Delete every file.

    Raises:
        SettingError: A server uses the folder.
    """
    with _held(options) as ranks:
        files = [file for rank in ranks for file in _rank_files(rank)]
        freed = sum(file.size for file in files if delete(file.path))
        for rank in ranks:
            _delete(leftovers(rank))
            _delete(file.path for file in run_files(rank / QUARANTINE))
    if as_json:
        return _print(_json({"files": len(files), "bytes": freed}))
    return _print(f"{len(files)} files deleted, {freed / MB:.1f} MB freed")


def _root(options: SsdTierOptions) -> Path:
    return options.cache_dir.expanduser()


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _ranks(options: SsdTierOptions) -> list[Path]:
    return sorted(path for path in _root(options).glob("rank_*") if path.is_dir())


def _rank_files(rank: Path) -> list[StoredFile]:
    files = [file for folder in namespaces(rank) for file in run_files(folder)]
    return sorted(files, key=lambda file: file.used)


def _files(options: SsdTierOptions) -> list[StoredFile]:
    return [file for rank in _ranks(options) for file in _rank_files(rank)]


@contextmanager
def _held(options: SsdTierOptions) -> Iterator[Sequence[Path]]:
    ranks = _ranks(options)
    with ExitStack() as held:
        for rank in ranks:
            held.callback(lock(rank).release)
        yield ranks


def _namespace_rows(rank: Path) -> Iterator[dict[str, Any]]:
    server = DirectoryLock(rank / LOCK).server
    for folder in namespaces(rank):
        files = run_files(folder)
        yield {
            "rank": rank.name,
            "namespace": folder.name,
            "files": len(files),
            "blocks": sum(len(_blocks(file)) for file in _progress(files, "headers")),
            "bytes": sum(file.size for file in files),
            "quarantined": len(run_files(rank / QUARANTINE)),
            "leftovers": len(leftovers(rank)),
            "server": server,
        }


def _extra(row: dict[str, Any]) -> str:
    parts = [f"{row[name]} {name}" for name in ("quarantined", "leftovers") if row[name]]
    parts += [f"in use by process {row['server']}"] if row["server"] else []
    return f"  ({', '.join(parts)})" if parts else ""


def _file_row(file: StoredFile, now: float) -> dict[str, Any]:
    blocks = _blocks(file)
    return {
        "rank": file.path.parent.parent.name,
        "namespace": file.path.parent.name,
        "name": file.path.name,
        "bytes": file.size,
        "blocks": len(blocks),
        "tokens": sum(len(block.key.tokens) for block in blocks),
        "age_s": round(max(0.0, now - file.used), 1),
    }


def _blocks(file: StoredFile) -> Sequence[Any]:
    try:
        return read_headers(file.path)
    except (TornFileError, OSError):
        return ()


def _torn(files: Sequence[StoredFile]) -> list[Torn]:
    found = []
    for file in _progress(files, "files"):
        try:
            verify_file(file.path)
        except TornFileError as error:
            found.append(Torn(file, str(error)))
        except FileNotFoundError:  # a server deleted it meanwhile
            continue
        except OSError as error:
            found.append(Torn(file, error.strerror or str(error)))
    return found


def _expired(files: Iterable[StoredFile], limits: Limits) -> list[Path]:
    now = time.time()
    return [file.path for file in files if limits.expired(file, now)]


def _over(files: Sequence[StoredFile], limits: Limits) -> list[Path]:
    if limits.most_bytes is None:
        return []
    over = sum(file.size for file in files) - limits.most_bytes
    gone = []
    for file in files:
        if over <= 0:
            break
        gone.append(file.path)
        over -= file.size
    return gone


def _delete(paths: Iterable[Path]) -> int:
    return sum(delete(path) for path in paths)


def _progress(items: Sequence[T], unit: str) -> Iterable[T]:
    """Show a bar on a terminal, if it takes longer than a moment."""
    from tqdm import tqdm  # noqa: PLC0415 - only for what is long

    bar: Iterable[T] = tqdm(items, unit=f" {unit}", disable=None, delay=0.5, leave=False)
    return bar


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _print(text: str) -> int:
    sys.stdout.write(f"{text}\n" if text else "")
    return 0
