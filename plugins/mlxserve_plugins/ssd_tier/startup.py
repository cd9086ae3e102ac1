"""Read a rank's folder at start: leftovers and the outdated go, the rest is indexed."""

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from attrs import frozen

from mlxserve_plugins.ssd_tier.folder import (
    QUARANTINE,
    StoredFile,
    delete,
    headers,
    leftovers,
    namespaces,
    quarantine,
    run_files,
)
from mlxserve_plugins.ssd_tier.index import Run
from mlxserve_plugins.ssd_tier.runfile import Shapes, StoredBlock, TornFileError
from mlxserve_plugins.ssd_tier.space import Space


@frozen
class Startup:
    """Reads headers only: a block's checksum is looked at when the block is read.

    Attributes:
        space: Of the rank's folder, whose lock is held.
        folder: The namespace's folder.
        shapes: What its blocks must look like.
        stop: Set when the server ends before this does.
    """

    space: Space
    folder: Path
    shapes: Shapes
    stop: Event

    def run(self) -> None:
        """Do it all; afterwards the limits hold and the index is complete."""
        rank_folder = self.space.folder
        gone = sum(delete(path) for path in leftovers(rank_folder))
        self.space.totals.add(removed_temporaries=gone)
        for folder in namespaces(rank_folder):
            files = self._unexpired(folder)
            if folder == self.folder:
                self._index(files)
            else:
                self.space.adopt(files)
        self.space.adopt(self._unexpired(rank_folder / QUARANTINE))
        self.space.make_room(0)

    def _unexpired(self, folder: Path) -> list[StoredFile]:
        kept, now = [], time.time()
        for file in run_files(folder):
            if self.space.limits.expired(file, now):
                self.space.totals.add(expired_files=int(delete(file.path)))
            else:
                kept.append(file)
        return kept

    def _index(self, files: list[StoredFile]) -> None:
        for file in files:
            if self.stop.is_set():
                return
            try:
                blocks = self._read(file)
            except TornFileError:
                quarantine(file.path, self.space.folder)
                self.space.totals.add(quarantined_files=1)
            except OSError:
                self.space.totals.add(read_errors=1)
            else:
                self._enter(file, blocks)

    def _read(self, file: StoredFile) -> Sequence[StoredBlock]:
        blocks = headers(file.path)
        if not all(block.fits(self.shapes) for block in blocks):
            raise TornFileError("blocks of another layout")
        return blocks

    def _enter(self, file: StoredFile, blocks: Sequence[StoredBlock]) -> None:
        keys = [block.key for block in blocks]
        hashes = tuple(key.hash for key in keys)
        run = Run(file.path, file.size, keys[0].parent, file.used, hashes)
        if not self.space.index.add(run, keys):
            delete(file.path)
