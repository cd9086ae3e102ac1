"""Threads that load blocks, and look at every byte before anybody uses it."""

from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final

from attrs import define, field

from mlxserve_hookspecs import Block, BlockKey
from mlxserve_valkey_tier.alarms import Alarms
from mlxserve_valkey_tier.breaker import Breaker
from mlxserve_valkey_tier.index import Index
from mlxserve_valkey_tier.totals import Totals
from mlxserve_valkey_tier.value import TornBlockError, Values
from mlxserve_valkey_tier.wire import Wire

WINDOW_BYTES: Final = 8 << 20
"""Asked for at once: enough to fill a network, little enough to stop in time."""


@define(eq=False)
class Load:
    """A fetch: ends with its last block, with the first that is not intact, or when time is up."""

    keys: Sequence[BlockKey]
    blocks: list[Block] = field(factory=list)
    future: "Future[Sequence[Block]]" = field(factory=Future)
    alarm: int | None = None
    _ended: bool = False
    _lock: Lock = field(factory=Lock)

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._ended or self.future.cancelled()

    def add(self, block: Block) -> None:
        """Take the next block."""
        with self._lock:
            if not self._ended:
                self.blocks.append(block)

    def end(self) -> bool:
        """Answer with what came; return whether this was news."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(tuple(self.blocks))
        return True


class Reader:
    """Loads blocks. ``load`` is called on the engine thread and does no I/O.

    Args:
        values: Decode.
        index: Unlearns what is not there after all.
        breaker: Opens when the server answers nothing.
        wires: One for each thread.
        alarms: Call time.
        totals: Counted.
        seconds: Time for a fetch.
    """

    def __init__(
        self,
        values: Values,
        index: Index,
        breaker: Breaker,
        wires: Sequence[Wire],
        alarms: Alarms,
        totals: Totals,
        seconds: float,
    ) -> None:
        self._values = values
        self._index = index
        self._breaker = breaker
        self._wires = wires
        self._alarms = alarms
        self._totals = totals
        self._seconds = seconds
        self._stopped = False
        self._loads: SimpleQueue[Load | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._main, args=(wire,), name=f"valkey-reader-{n}", daemon=True)
            for n, wire in enumerate(wires)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Return the longest intact run that comes in time."""
        load = Load(keys)
        if not keys or self._stopped or not self._breaker.available:
            load.end()
            return load.future
        load.alarm = self._alarms.set(self._seconds, lambda: self._late(load))
        self._loads.put(load)
        return load.future

    def stop(self, seconds: float) -> None:
        """End; what is left of a load yields nothing. Waits ``seconds`` at most for each thread."""
        self._stopped = True
        for _ in self._threads:
            self._loads.put(None)
        for thread, wire in zip(self._threads, self._wires, strict=True):
            thread.join(seconds)
            wire.close()

    def _late(self, load: Load) -> None:
        if load.end():
            self._totals.add(late_fetches=1)

    def _main(self, wire: Wire) -> None:
        while (load := self._loads.get()) is not None:
            if not (load.ended or self._stopped):
                self._read(load, wire)
            if load.alarm is not None:
                self._alarms.cancel(load.alarm)
            load.end()

    def _read(self, load: Load, wire: Wire) -> None:
        epoch = self._breaker.epoch
        step = max(1, WINDOW_BYTES // max(1, self._values.block_bytes))
        answered = False
        try:
            for at in range(0, len(load.keys), step):
                if load.ended or len(load.blocks) < at:
                    break
                window = load.keys[at : at + step]
                with wire.within(self._seconds, epoch):
                    for key, reply in zip(window, self._ask(wire, window), strict=True):
                        answered = True
                        self._take(load, key, reply)
                        if load.ended:  # what is still on its way is not waited for
                            break
        except Exception as error:
            self._totals.add(failed_fetches=1)
            if not answered or not wire.expired:  # else it is slow, but there
                self._breaker.trip(epoch, "slow" if wire.expired else "gone", error)
        else:
            self._breaker.succeeded()

    def _ask(self, wire: Wire, keys: Sequence[BlockKey]) -> Any:
        # A range, for whatever lies there: no reply is longer than a block can be.
        most = self._values.most_bytes
        return wire.ask(*(("GETRANGE", self._values.name(key.hash), 0, most) for key in keys))

    def _take(self, load: Load, key: BlockKey, reply: Any) -> None:
        if reply == b"":
            self._index.discard([key.hash])
            self._totals.add(gone_blocks=1)
            return
        try:
            block = self._values.decode(reply, key)
        except TornBlockError as error:
            self._index.discard([key.hash])
            self._totals.add(torn_blocks=1)
            self._totals.complain("a block of the shared cache is torn", why=str(error))
            return
        self._totals.add(blocks_read=1, bytes_read=len(reply))
        if load.keys[len(load.blocks)] == key:
            load.add(block)
