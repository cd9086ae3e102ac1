"""The tier: answers from an index in memory, and leaves everything else to its threads."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import structlog

from mlxserve_hookspecs import Block, BlockKey, CacheLayout, SettingError
from mlxserve_valkey_tier import ValkeyTierOptions
from mlxserve_valkey_tier.alarms import Alarms
from mlxserve_valkey_tier.breaker import Breaker
from mlxserve_valkey_tier.follower import Follower
from mlxserve_valkey_tier.index import Index
from mlxserve_valkey_tier.reader import Reader
from mlxserve_valkey_tier.totals import Totals
from mlxserve_valkey_tier.value import Values
from mlxserve_valkey_tier.wire import Wire, connector, place_of
from mlxserve_valkey_tier.writer import PATIENCE_S, Writer

log = structlog.get_logger("mlxserve.valkey")

READERS: Final = 2
"""One looks at what came while the other waits for more."""

CLOSING_S: Final = 1.0


def open_tier(layout: CacheLayout, options: ValkeyTierOptions) -> "SharedTier | None":
    """Return the tier of a layout; ``None`` where state goes with the blocks.

    Raises:
        SettingError: The URL cannot be read.
    """
    if layout.state:
        log.warning("recurrent state is not shared: this model keeps no blocks on the server")
        return None
    try:
        return SharedTier(layout, options)
    except ValueError as error:
        raise SettingError(f"--valkey-url: {error}") from error


class SharedTier:
    """Blocks on a server: a ``CacheTier`` of bytes. Nothing here waits for the network.

    What a look-up counts was on the server a moment ago. Tokens are compared when a block comes.

    Args:
        layout: The blocks'.
        options: The user's.

    Raises:
        ValueError: The URL cannot be read.
    """

    name = "valkey"

    def __init__(self, layout: CacheLayout, options: ValkeyTierOptions) -> None:
        values, seconds = Values(layout, options.secret.encode()), options.timeout_ms / 1000
        connect, patient = (connector(options.url, each) for each in (seconds, PATIENCE_S))
        self.wants_fresh = options.policy == "write_through"
        self._index, self._totals, self._alarms = Index(), Totals(), Alarms()
        self._breaker = Breaker(place_of(options.url))
        wires = [Wire(connect, self._alarms) for _ in range(READERS)]
        self._reader = Reader(
            values, self._index, self._breaker, wires, self._alarms, self._totals, seconds
        )
        self._writer = Writer(
            values,
            self._breaker,
            Wire(patient, self._alarms),
            self._totals,
            options.ttl_s,
            options.queue_mb << 20,
        )
        listener, asker = (Wire(connect, self._alarms, lasting=True) for _ in range(2))
        self._follower = Follower(values, self._index, self._breaker, listener, asker, seconds)
        self._writer.start()
        self._follower.start()

    def room(self) -> int:
        """Return how many blocks the queue takes; none while the server is gone or full."""
        return self._writer.room

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of ``keys``, from the first on, the server has."""
        if not self._breaker.available:
            return 0
        has = self._index.has
        return next((at for at, key in enumerate(keys) if not has(key.hash)), len(keys))

    def fetch(self, keys: Sequence[BlockKey]) -> "Future[Sequence[Block]]":
        """Load blocks; the future yields the longest intact run that comes in time."""
        return self._reader.load(keys)

    def store(self, blocks: Sequence[Block]) -> None:
        """Queue blocks to be sent."""
        self._writer.offer(blocks)

    def held(self) -> int:
        """Return how many blocks the server has."""
        return len(self._index)

    def clear(self) -> int:
        """Forget every block of this layout, for all servers that share it."""
        known = self._index.clear()
        return len(known) + self._writer.forget(known)

    def stats(self) -> Mapping[str, float]:
        """Return ``totals.NAMES``, and how it is now."""
        return {
            **self._totals.snapshot(),
            "blocks": float(len(self._index)),
            "queued_blocks": float(self._writer.waiting),
            "available": float(self._breaker.available),
            "server_full": float(self._writer.full),
            "trips": float(self._breaker.trips),
        }

    def flush(self, timeout: float) -> bool:
        """Send what waits within ``timeout`` seconds; return whether all of it was stored."""
        dropped = self._totals.dropped
        return self._writer.drain(timeout) and self._totals.dropped == dropped

    def close(self) -> None:
        """Stop threads and let go of connections."""
        self._follower.stop(CLOSING_S)
        self._writer.stop(CLOSING_S)
        self._reader.stop(CLOSING_S)
        self._alarms.stop()
