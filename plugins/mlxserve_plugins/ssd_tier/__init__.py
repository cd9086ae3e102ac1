"""Keep evicted KV on disk, so that a known prefix loads in milliseconds, even after a restart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import field, frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import CacheLayout, CacheTier, Command, StateStore, hookimpl, option

Policy: TypeAlias = Literal["evict_only", "write_through"]
Durability: TypeAlias = Literal["best_effort", "persistent"]


@frozen(kw_only=True)
class SsdTierOptions:
    """Where KV blocks go on disk, when, how safely, and how much of it."""

    enabled: bool = option(
        True,
        "keep evicted KV blocks on disk",
        flag="--ssd",
        common=True,
        switches={True: ["ssd-tier"], False: ["no:ssd-tier"]},
    )
    cache_dir: Path = option(
        Path("~/.cache/mlx-lm-server/kv-cache"),
        "folder of the blocks; a second server gets one of its own in it",
        flag="--ssd-cache-dir",
        common=True,
    )
    ttl_days: int = option(
        7,
        "days after its last use that a block is deleted; 0 keeps it",
        flag="--ssd-ttl-days",
        check=and_(ge(0), le(36500)),
    )
    policy: Policy = option(
        "evict_only",
        "write blocks as they leave memory, or (write_through) as they fill",
        flag="--ssd-policy",
    )
    durability: Durability = option(
        "best_effort",
        "rename only, or (persistent) fsync file and folder and retry",
        flag="--ssd-durability",
    )
    async_writes: bool = option(
        True, "write in the background; if off, the engine waits", flag="--ssd-async-writes"
    )
    writer_queue_size: int = option(
        512,
        "most blocks that wait to be written; further ones are dropped and counted",
        flag="--ssd-writer-queue-size",
        check=and_(ge(1), le(2**20)),
    )
    persistent_max_retries: int = option(
        3,
        "how often a failed write is tried again when persistent",
        flag="--ssd-persistent-max-retries",
        check=and_(ge(0), le(100)),
    )
    flush_interval_s: float = option(
        1.0,
        "seconds that a block waits for its neighbours to share a file",
        flag="--ssd-flush-interval-s",
        check=and_(ge(0.0), le(3600.0)),
    )
    max_size_gb: float = option(
        50.0,
        "most gigabytes on disk, per rank; the least recently used go first; 0 is unlimited",
        flag="--ssd-max-size-gb",
        check=and_(ge(0.0), le(1e9)),
    )
    min_free_gb: float = option(
        10.0,
        "gigabytes that stay free on the disk: below, blocks are dropped and counted",
        flag="--ssd-min-free-gb",
        check=and_(ge(0.0), le(1e9)),
    )


@frozen
class SsdTier:
    """Adds a tier of blocks on disk, and ``mlxserve cache`` to look after it."""

    options: SsdTierOptions = SsdTierOptions()
    _shelves: dict[tuple[int, bytes], Any] = field(factory=dict, init=False, repr=False)

    @hookimpl
    def make_cache_tier(self, layout: CacheLayout) -> CacheTier | None:
        """Open the folder; its index is read in the background."""
        from mlxserve_plugins.ssd_tier.tier import open_tier  # noqa: PLC0415 - starts slow

        return open_tier(layout, self.options, self._shelves)

    @hookimpl
    def make_state_store(self, layout: CacheLayout) -> StateStore | None:
        """Keep state checkpoints in the same folder, for models that have any."""
        from mlxserve_plugins.ssd_tier.tier import open_states  # noqa: PLC0415 - likewise

        return open_states(layout, self.options, self._shelves) if layout.state else None

    @hookimpl
    def commands(self) -> Sequence[Command]:
        """Add ``mlxserve cache``, which works on the folder without a server."""
        from mlxserve_plugins.ssd_tier.command import cache_command  # noqa: PLC0415 - likewise

        return (cache_command(self.options),)
