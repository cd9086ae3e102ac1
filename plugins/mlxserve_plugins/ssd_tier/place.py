"""Where a server's blocks lie: the shared folder, or one of its own beside another server's."""

from pathlib import Path
from typing import Final

import structlog
from attrs import frozen

from mlxserve_hookspecs import CacheLayout
from mlxserve_plugins.ssd_tier.folder import (
    LOCK,
    DirectoryLock,
    FolderInUseError,
    lock,
    namespace_name,
    rank_name,
)

MODEL_CHARACTERS: Final = 12

log = structlog.get_logger("mlxserve.ssd")


@frozen
class Place:
    """A rank's folder, and the lock that keeps other processes out of it."""

    folder: Path
    lock: DirectoryLock


def claim(layout: CacheLayout, cache_dir: Path) -> Place | None:
    """Return a folder that nobody else uses; ``None``, and a warning, where there is none.

    A second server on one machine gets a folder named after its model, and finds it again at its
    next start. Of one model there is one such folder: a third server keeps nothing on disk. Ranks
    decide alike, so that of several ranks each has its folder or none starts.

    Raises:
        SettingError: The folder cannot be used, or another server uses that of a rank of several.
    """
    shared = cache_dir.expanduser() / rank_name(layout.rank)
    if layout.size > 1:
        return Place(shared, lock(shared))
    model = namespace_name(layout.namespace)[:MODEL_CHARACTERS]
    own = shared.with_name(f"{shared.name}.{model}")
    for folder in (own, shared) if own.is_dir() else (shared, own):
        try:
            place = Place(folder, lock(folder))
        except FolderInUseError:
            continue
        if folder == own:
            _tell("this server keeps blocks in a folder of its own", shared, folder)
        return place
    advice = "name another --ssd-cache-dir to keep blocks on disk here too"
    _tell("this server keeps no blocks on disk: others use the folders", own, own, advice=advice)
    return None


def _tell(event: str, other: Path, folder: Path, **facts: str) -> None:
    holder = DirectoryLock(other / LOCK).server
    log.warning(event, folder=str(folder), used_by=holder or None, **facts)
