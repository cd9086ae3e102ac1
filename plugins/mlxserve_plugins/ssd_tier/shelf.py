"""Blocks on disk and those on their way there: what the tier and the state store share."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import structlog

from mlxserve_hookspecs import Block, BlockKey, CacheLayout
from mlxserve_plugins.ssd_tier import SsdTierOptions
from mlxserve_plugins.ssd_tier.backlog import Backlog
from mlxserve_plugins.ssd_tier.folder import namespace_name
from mlxserve_plugins.ssd_tier.index import Index, Part
from mlxserve_plugins.ssd_tier.place import Place
from mlxserve_plugins.ssd_tier.reader import Piece, Reader
from mlxserve_plugins.ssd_tier.runfile import Shapes
from mlxserve_plugins.ssd_tier.space import Limits, Space
from mlxserve_plugins.ssd_tier.totals import Totals
from mlxserve_plugins.ssd_tier.writer import Writer, Writing

log = structlog.get_logger("mlxserve.ssd")

RUN_BLOCKS: Final = 16
RUN_BYTES: Final = 256 << 20
"""Blocks of a large model share a file only up to here."""


class Shelf:
    """One namespace of one rank. Called on the engine thread; nothing here waits for the disk."""

    def __init__(
        self, layout: CacheLayout, shapes: Shapes, options: SsdTierOptions, place: Place
    ) -> None:
        rank_folder = place.folder
        self._place = place
        self._users: list[object] = []
        self._patient = not options.async_writes
        self._index = Index()
        self._totals = Totals()
        longest = max(1, min(RUN_BLOCKS, RUN_BYTES // max(1, shapes.largest)))
        self._backlog = Backlog(options.writer_queue_size, longest, options.flush_interval_s)
        limits = Limits.read(options.max_size_gb, options.min_free_gb, options.ttl_days)
        space = Space(rank_folder, limits, self._index, self._totals)
        durable = options.durability == "persistent"
        writing = Writing(
            folder=rank_folder / namespace_name(layout.namespace),
            shapes=shapes,
            durable=durable,
            retries=options.persistent_max_retries if durable else 0,
        )
        self._reader = Reader(rank_folder, shapes, self._index, self._totals)
        self._writer = Writer(writing, self._backlog, space)
        self._writer.start()

    @property
    def closed(self) -> bool:
        """Whether it takes and gives nothing any more."""
        return self._backlog.closed

    @property
    def held(self) -> int:
        """How many blocks are here, those on their way included."""
        return self._index.blocks + self._backlog.blocks

    @property
    def room(self) -> int:
        """How many blocks may be put now."""
        return 0 if self.closed else self._backlog.room

    def has(self, key: BlockKey) -> bool:
        """Return whether a block is here; its tokens are compared."""
        # In this order: the writer enters a block in the index before it leaves the backlog.
        return self._backlog.get(key) is not None or self._index.has(key)

    def load(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Return the longest intact run; what still waits to be written comes from memory."""
        pieces: list[Piece] = []
        rest = () if self.closed else keys
        while rest:
            piece: Piece | None = self._waiting(rest) or self._index.pin(rest)
            if piece is None:
                break
            pieces.append(piece)
            count = len(piece.keys if isinstance(piece, Part) else piece)
            rest = rest[count:]
        self._totals.add(hit_blocks=len(keys) - len(rest))
        return self._reader.load(pieces)

    def put(self, blocks: Sequence[Block]) -> None:
        """Queue blocks to be written; those that find the queue full are dropped and counted."""
        if self.closed:
            self._totals.add(dropped_closing=len(blocks))
            return
        news = [block for block in blocks if not self._index.has(block.key)]
        taken = self._backlog.offer(news, time.monotonic())
        self._totals.add(
            duplicate_blocks=len(blocks) - len(news), dropped_queue_full=len(news) - taken
        )
        if self._patient:
            self._backlog.drain(None)

    def clear(self, chosen: Callable[[bytes], bool]) -> int:
        """Forget what is not being read, by hash; return how many. The files go in the background.

        A run goes as a whole: runs hold either blocks or states.
        """
        waiting = self._backlog.clear(chosen)
        blocks, runs = self._index.clear(chosen)
        self._backlog.delete(run.path for run in runs)
        return waiting + blocks

    def count(self, chosen: Callable[[bytes], bool]) -> int:
        """Return how many blocks on disk have such a hash."""
        return self._index.count(chosen)

    def wait_ready(self, timeout: float) -> bool:
        """Wait for the index of what was on disk at start; return whether it is complete."""
        return self._writer.ready.wait(timeout)

    def stats(self) -> Mapping[str, float]:
        """Return ``totals.NAMES``, and what is here now."""
        return {
            **self._totals.snapshot(),
            "blocks": float(self._index.blocks),
            "files": float(self._index.files),
            "bytes": float(self._index.size),
            "queued_blocks": float(self._backlog.blocks),
            "index_ready": float(self._writer.ready.is_set()),
        }

    def flush(self, timeout: float) -> bool:
        """Write what waits within ``timeout`` seconds; return whether all of it was written."""
        dropped = self._totals.dropped
        return self._backlog.drain(timeout) and self._totals.dropped == dropped

    def share(self, user: object) -> None:
        """Stay open until ``user`` too has called ``release``."""
        self._users.append(user)

    def release(self, user: object) -> None:
        """Close, if ``user`` was the last."""
        self._users = [other for other in self._users if other is not user]
        if not self._users and not self.closed:
            self._close()

    def _close(self) -> None:
        """Stop threads and let go of the folder; what still waits is dropped and counted."""
        self._writer.stop()
        self._totals.add(dropped_closing=self._backlog.clear(lambda _: True))
        self._reader.stop()
        self._place.lock.release()
        self._tell_end()

    def _tell_end(self) -> None:
        written, dropped = self._totals.snapshot()["blocks_written"], self._totals.dropped
        facts = {"blocks_written": int(written), "folder": str(self._place.folder)}
        if dropped:
            log.info("some blocks were not written to disk", dropped=int(dropped), **facts)
        else:
            log.info("every cached block is on disk", **facts)

    def _waiting(self, keys: Sequence[BlockKey]) -> list[Block]:
        """Return the blocks of ``keys``, from the first on, that wait to be written."""
        found: list[Block] = []
        for key in keys:
            block = self._backlog.get(key)
            if block is None:
                break
            found.append(block)
        return found
