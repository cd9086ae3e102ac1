"""Threads that read runs back, and look at every byte before anybody uses it."""

import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final, TypeAlias

from mlxserve_hookspecs import Block, BlockKey
from mlxserve_plugins.ssd_tier.folder import quarantine, read_block, read_blocks
from mlxserve_plugins.ssd_tier.index import Index, Part
from mlxserve_plugins.ssd_tier.runfile import Shapes, StoredBlock, TornFileError
from mlxserve_plugins.ssd_tier.totals import Totals

READERS: Final = 2
"""One reads while the other checks sums; more only take turns at the GIL."""

Piece: TypeAlias = Part | Sequence[Block]
"""What is to be read, or what is in memory."""


class Loading:
    """The future of a fetch: resolved when the last of its pieces is there."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.future: Future[Sequence[Block]] = Future()
        self.todo = deque((n, it) for n, it in enumerate(pieces) if isinstance(it, Part))
        self._wanted = [len(it.keys if isinstance(it, Part) else it) for it in pieces]
        self._found = {n: it for n, it in enumerate(pieces) if not isinstance(it, Part)}
        self._lock = Lock()
        if not self.todo:
            self.future.set_result(self._intact())

    def put(self, number: int, blocks: Sequence[Block]) -> None:
        """Hand in a piece; the last one resolves the future, unless it was cancelled."""
        with self._lock:
            self._found[number] = blocks
            complete = len(self._found) == len(self._wanted)
        if complete and self.future.set_running_or_notify_cancel():
            self.future.set_result(self._intact())

    def _intact(self) -> tuple[Block, ...]:
        run: list[Block] = []
        for number, wanted in enumerate(self._wanted):
            run += self._found[number]
            if len(self._found[number]) < wanted:
                break
        return tuple(run)


class Reader:
    """Loads blocks. ``load`` is called on the engine thread and does no I/O.

    A file that is torn is moved to the quarantine and counted; one that is gone is forgotten.
    """

    def __init__(self, rank_folder: Path, shapes: Shapes, index: Index, totals: Totals) -> None:
        self._rank_folder = rank_folder
        self._shapes = shapes
        self._index = index
        self._totals = totals
        self._stopped = False
        self._loads: SimpleQueue[Loading | None] = SimpleQueue()
        # Threads of our own: a pool starts its at the first load, and its caller waits for that.
        self._threads = [
            Thread(target=self._main, name=f"ssd-reader-{n}", daemon=True) for n in range(READERS)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, pieces: Sequence[Piece]) -> "Future[Sequence[Block]]":
        """Return the longest intact run of the pieces, one after the other."""
        loading = Loading(pieces)
        for _ in range(min(READERS, len(loading.todo))):
            self._loads.put(loading)
        return loading.future

    def stop(self) -> None:
        """End after the runs that are being read; what is left of a load yields nothing."""
        self._stopped = True
        for _ in self._threads:
            self._loads.put(None)
        for thread in self._threads:
            thread.join()

    def _main(self) -> None:
        while (loading := self._loads.get()) is not None:
            self._work(loading)

    def _work(self, loading: Loading) -> None:
        """Read what nobody reads yet: the readers share a load, and its caller is free at once."""
        while True:
            try:
                number, part = loading.todo.popleft()
            except IndexError:
                return
            skip = self._stopped or loading.future.cancelled()
            blocks = () if skip else self._read(part)
            self._index.unpin(part.run, time.time())
            loading.put(number, blocks)

    def _read(self, part: Part) -> Sequence[Block]:
        blocks: list[Block] = []
        try:
            self._read_into(blocks, part)
        except TornFileError:
            with suppress(OSError):
                quarantine(part.run.path, self._rank_folder)
            self._index.remove(part.run)
            self._totals.add(quarantined_files=1)
        except FileNotFoundError:
            self._index.remove(part.run)
        except Exception as error:
            self._failed(part, error)
        self._totals.add(
            blocks_read=len(blocks),
            bytes_read=sum(len(array) for block in blocks for array in block.arrays),
        )
        return blocks

    def _read_into(self, blocks: list[Block], part: Part) -> None:
        """Append the part's blocks as far as they are intact.

        Raises:
            TornFileError: The one after them is not.
            FileNotFoundError: The file is gone, or is another by now.
            OSError: It cannot be read.
        """
        descriptor = os.open(part.run.path, os.O_RDONLY)
        try:
            stored = self._find(read_blocks(descriptor), part.keys)
            for block in stored:  # one by one: those before a torn one count
                blocks.append(read_block(descriptor, block))
        finally:
            os.close(descriptor)
        with suppress(OSError):
            os.utime(part.run.path)  # its age counts from here, also after a restart

    def _find(
        self, stored: Sequence[StoredBlock], keys: Sequence[BlockKey]
    ) -> Sequence[StoredBlock]:
        first = next((n for n, block in enumerate(stored) if block.key == keys[0]), len(stored))
        found = stored[first : first + len(keys)]
        if [block.key for block in found] != list(keys):
            raise FileNotFoundError("another run of that name")
        if not all(block.fits(self._shapes) for block in found):
            raise TornFileError("blocks of another layout")
        return found

    def _failed(self, part: Part, error: Exception) -> None:
        import structlog  # noqa: PLC0415 - not worth its import time when nothing fails

        self._index.remove(part.run)
        self._totals.add(read_errors=1)
        structlog.get_logger().warning(
            "KV blocks not read from disk", file=str(part.run.path), error=str(error)
        )
