"""The thread that owns the folder: reads it at start, writes runs, deletes files."""

import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from threading import Event, Thread
from typing import Final

from attrs import frozen

from mlxserve_hookspecs import Block
from mlxserve_plugins.ssd_tier.backlog import Backlog
from mlxserve_plugins.ssd_tier.folder import FULL, delete, publish
from mlxserve_plugins.ssd_tier.index import Run
from mlxserve_plugins.ssd_tier.runfile import SUFFIX, Shapes, encode
from mlxserve_plugins.ssd_tier.space import Space
from mlxserve_plugins.ssd_tier.startup import Startup

EXPIRE_EVERY_S: Final = 3600.0
COMPLAIN_EVERY_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.05


@frozen(kw_only=True)
class Writing:
    """How a run is written.

    Attributes:
        folder: The namespace's.
        shapes: What blocks look like.
        durable: Force each file and its name to the medium.
        retries: How often a write that failed is tried again.
    """

    folder: Path
    shapes: Shapes
    durable: bool = False
    retries: int = 0


class Writer:
    """Writes what the backlog holds. Every method but ``start``, ``stop`` and ``ready`` is its own.

    Outcomes: a full disk and a floor that is reached drop the run and count it; any other failure
    is tried again if asked for, then counted and dropped. Nothing raises, and serving goes on.
    """

    def __init__(self, writing: Writing, backlog: Backlog, space: Space) -> None:
        self._writing = writing
        self._backlog = backlog
        self._index = space.index
        self._space = space
        self._totals = space.totals
        self._stop = Event()
        self._complained: dict[str, float] = {}
        self._thread = Thread(target=self._main, name="ssd-writer", daemon=True)
        self.ready = Event()
        """Set once the index is complete."""

    def start(self) -> None:
        """Begin: the folder first."""
        self._thread.start()

    def stop(self) -> None:
        """End after the file that is being written."""
        self._stop.set()
        self._backlog.close()
        self._thread.join()

    def _main(self) -> None:
        try:
            Startup(self._space, self._writing.folder, self._writing.shapes, self._stop).run()
        except Exception as error:
            self._complain("folder not read", error)
        self.ready.set()
        expire_at = time.monotonic() + EXPIRE_EVERY_S
        while not self._stop.is_set():
            self._turn()
            if time.monotonic() >= expire_at:
                self._space.expire(time.time())
                expire_at += EXPIRE_EVERY_S

    def _turn(self) -> None:
        work = self._backlog.work(time.monotonic(), EXPIRE_EVERY_S)
        for path in work.delete:
            delete(path)
        self._backlog.deleted()
        for blocks in work.write:
            if self._stop.is_set():
                return
            try:
                self._write(blocks, work.epoch)
            except Exception as error:
                self._drop(blocks, work.epoch, "dropped_write_error", error)

    def _write(self, blocks: Sequence[Block], epoch: int) -> None:
        news = [it for it in blocks if not self._known(it)]
        if len(news) < len(blocks):
            self._totals.add(duplicate_blocks=len(blocks) - len(news))
            self._backlog.settle([it for it in blocks if self._known(it)], epoch, int)
            return  # what is left may no longer be one chain: it comes back sorted
        buffers = encode(self._writing.shapes, blocks)
        size = sum(buffer.nbytes for buffer in buffers)
        if reason := self._space.refusal(size):
            self._drop(blocks, epoch, reason)
            return
        path = self._writing.folder / f"{blocks[0].key.hash.hex()}{SUFFIX}"
        if self._publish(path, buffers, blocks, epoch):
            self._enter(path, size, blocks, epoch)

    def _publish(
        self, path: Path, buffers: Sequence[memoryview], blocks: Sequence[Block], epoch: int
    ) -> bool:
        pause = FIRST_PAUSE_S
        for left in range(self._writing.retries, -1, -1):
            try:
                publish(path, buffers, durable=self._writing.durable)
            except OSError as error:
                if error.errno in FULL:
                    self._drop(blocks, epoch, "dropped_disk_full", error)
                    return False
                if not left or self._stop.wait(pause):
                    self._drop(blocks, epoch, "dropped_write_error", error)
                    return False
                self._totals.add(write_retries=1)
                pause *= 2
            else:
                return True
        return False

    def _enter(self, path: Path, size: int, blocks: Sequence[Block], epoch: int) -> None:
        keys = [block.key for block in blocks]
        hashes = tuple(key.hash for key in keys)
        run = Run(path, size, keys[0].parent, time.time(), hashes)
        if not self._backlog.settle(blocks, epoch, lambda: self._index.add(run, keys)):
            delete(path)
            return
        self._totals.add(bytes_written=size, blocks_written=len(blocks), files_written=1)

    def _drop(
        self, blocks: Sequence[Block], epoch: int, reason: str, error: Exception | None = None
    ) -> None:
        if self._backlog.settle(blocks, epoch, int):
            self._totals.add(**{reason: len(blocks)})
            self._complain(reason, error)

    def _complain(self, reason: str, error: Exception | None) -> None:
        """Log a trouble now and then: a full disk would fill the log as well."""
        import structlog  # noqa: PLC0415 - not worth its import time when nothing fails

        now = time.monotonic()
        if now - self._complained.get(reason, -inf) >= COMPLAIN_EVERY_S:
            self._complained[reason] = now
            log = structlog.get_logger()
            log.warning(
                "KV blocks not kept on disk",
                reason=reason,
                folder=str(self._writing.folder),
                error=str(error) if error else None,
            )

    def _known(self, block: Block) -> bool:
        return self._index.has(block.key)
