"""The thread that stores blocks: a bounded queue in, pipelined writes out."""

import time
from collections.abc import Iterator, Sequence
from threading import Condition, Thread
from typing import Final

from attrs import frozen
from valkey.exceptions import OutOfMemoryError

from mlxserve_hookspecs import Block
from mlxserve_valkey_tier.breaker import Breaker
from mlxserve_valkey_tier.totals import Totals
from mlxserve_valkey_tier.value import Values
from mlxserve_valkey_tier.wire import Command, Wire

BATCH_BYTES: Final = 8 << 20
PATIENCE_S: Final = 10.0
"""For a batch: nobody waits for it."""

FULL_S: Final = 5.0
"""For so long a server that is full is offered nothing."""

FORGET_AT_ONCE: Final = 1000
GLANCE_S: Final = 0.5
"""How often to see whether a server is back that is to forget something."""


@frozen
class Work:
    """What to do next: blocks to store, or hashes of blocks to forget."""

    store: Sequence[Block] = ()
    forget: Sequence[bytes] = ()


class Writer:
    """Stores what it is offered. Every outcome but a stored block is counted; nothing raises.

    Args:
        values: Encode.
        breaker: Opens when the server does not answer.
        wire: The connection.
        totals: Counted.
        ttl_s: Seconds that a block lives; 0 is the server's say.
        limit: Most bytes that wait.
    """

    def __init__(
        self,
        values: Values,
        breaker: Breaker,
        wire: Wire,
        totals: Totals,
        ttl_s: int,
        limit: int,
    ) -> None:
        self._values = values
        self._breaker = breaker
        self._wire = wire
        self._totals = totals
        self._life: tuple[str | int, ...] = ("EX", ttl_s) if ttl_s else ()
        self._most = max(1, limit // max(1, values.block_bytes))
        self._full_until = 0.0
        self._changed = Condition()
        self._blocks: dict[bytes, Block] = {}
        self._forget: list[bytes] = []
        self._busy = False
        self._stopped = False
        self._thread = Thread(target=self._main, name="valkey-writer", daemon=True)

    @property
    def waiting(self) -> int:
        """Blocks that wait or are on their way."""
        return len(self._blocks)

    @property
    def full(self) -> bool:
        """Whether the server had no room a moment ago."""
        return time.monotonic() < self._full_until

    @property
    def room(self) -> int:
        """Blocks that would be taken now."""
        if self._stopped or self.full or not self._breaker.available:
            return 0
        return max(self._most - len(self._blocks), 0)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, blocks: Sequence[Block]) -> None:
        """Take blocks, the first ones first; those that find no room are dropped. Never waits."""
        with self._changed:
            news = [block for block in blocks if block.key.hash not in self._blocks]
            taken = news[: self.room]
            self._blocks.update((block.key.hash, block) for block in taken)
            self._changed.notify_all()
        dropped = len(news) - len(taken)
        if dropped and not self._breaker.available:
            self._totals.add(dropped_server_gone=dropped)
        elif dropped:
            reason = "dropped_server_full" if self.full else "dropped_queue_full"
            self._totals.add(**{reason: dropped})

    def forget(self, hashes: Sequence[bytes]) -> int:
        """Have blocks deleted on the server, those that wait too; return how many waited."""
        with self._changed:
            waited, self._blocks = list(self._blocks), {}
            self._forget += [*hashes, *waited]
            self._changed.notify_all()
            return len(waited)

    def drain(self, timeout: float) -> bool:
        """Wait for what waits; return whether it was done within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped or self._idle, timeout)

    def stop(self, seconds: float) -> None:
        """End; what still waits is dropped. Waits for ``seconds`` at most."""
        with self._changed:
            self._stopped = True
            self._totals.add(dropped_closing=len(self._blocks))
            self._blocks = {}
            self._changed.notify_all()
        self._thread.join(seconds)
        self._wire.close()

    @property
    def _may_forget(self) -> bool:
        return bool(self._forget) and self._breaker.available

    @property
    def _idle(self) -> bool:
        return not (self._blocks or self._forget or self._busy)

    def _main(self) -> None:
        while (work := self._next()) is not None:
            epoch = self._breaker.epoch
            try:
                self._do(work, epoch)
            except Exception as error:
                self._breaker.trip(epoch, "slow" if self._wire.expired else "gone", error)
                with self._changed:
                    self._forget += work.forget
            self._settle(work)

    def _next(self) -> Work | None:
        with self._changed:
            while not (self._stopped or self._blocks or self._may_forget):
                self._changed.wait(GLANCE_S if self._forget else None)
            if self._stopped:
                return None
            self._busy = True
            if self._may_forget:
                forget = self._forget[:FORGET_AT_ONCE]
                del self._forget[:FORGET_AT_ONCE]
                return Work(forget=forget)
            count = max(1, BATCH_BYTES // max(1, self._values.block_bytes))
            return Work(store=list(self._blocks.values())[:count])

    def _settle(self, work: Work) -> None:
        """Let go of what was done; of everything, when the server does not take it now."""
        with self._changed:
            for block in work.store:
                if self._blocks.get(block.key.hash) is block:
                    del self._blocks[block.key.hash]
            left = len(self._blocks)
            if left and not self._breaker.available:
                self._totals.add(dropped_server_gone=left)
                self._blocks = {}
            elif left and self.full:
                self._totals.add(dropped_server_full=left)
                self._blocks = {}
            self._busy = False
            self._changed.notify_all()

    def _do(self, work: Work, epoch: int) -> None:
        if not self._breaker.available:
            self._totals.add(dropped_server_gone=len(work.store))
            return
        if work.forget:
            with self._wire.within(PATIENCE_S, epoch):
                self._wire.ask_one("UNLINK", *(self._values.name(it) for it in work.forget))
            return
        self._write([pair for block in work.store for pair in self._encoded(block)], epoch)

    def _encoded(self, block: Block) -> Iterator[tuple[bytes, bytes]]:
        """Yield a block's hash and value, unless it is not what the layout says."""
        try:
            yield block.key.hash, self._values.encode(block)
        except ValueError as error:
            self._totals.add(dropped_refused=1)
            self._totals.complain("blocks not shared", why=str(error))

    def _write(self, values: Sequence[tuple[bytes, bytes]], epoch: int) -> None:
        if not values:
            return
        commands: list[Command] = [
            ("SET", self._values.name(name), value, *self._life) for name, value in values
        ]
        stored = size = full = refused = 0
        try:
            with self._wire.within(PATIENCE_S, epoch):
                replies = list(self._wire.ask(*commands))
        except Exception:
            self._totals.add(dropped_server_gone=len(values))
            raise
        for (_, value), reply in zip(values, replies, strict=True):
            stored, size = stored + (reply == b"OK"), size + len(value) * (reply == b"OK")
            full += isinstance(reply, OutOfMemoryError)
            refused += reply != b"OK" and not isinstance(reply, OutOfMemoryError)
            if reply != b"OK":
                self._totals.complain("blocks not shared", why=str(reply))
        self._totals.add(
            blocks_written=stored,
            bytes_written=size,
            dropped_server_full=full,
            dropped_refused=refused,
        )
        if full:
            self._full_until = time.monotonic() + FULL_S
