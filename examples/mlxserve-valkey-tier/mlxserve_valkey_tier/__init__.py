"""Share KV blocks between servers through Valkey or Redis: what one computed, all can load."""

from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import attrs
from attrs import frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import CacheLayout, CacheTier, hookimpl, option

Policy: TypeAlias = Literal["write_through", "evict_only"]

SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix")


def _url(_: Any, its: "attrs.Attribute[Any]", value: str) -> None:
    if urlsplit(value).scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"'{its.name}' must begin with one of {known}")


@frozen(kw_only=True)
class ValkeyTierOptions:
    """Where the shared blocks are, and how long this server waits for them."""

    url: str = option(
        "valkey://127.0.0.1:6379/0",
        "the server, as valkey://[user:password@]host:port/database; valkeys:// is TLS",
        flag="--valkey-url",
        check=_url,
        secret=True,
    )
    timeout_ms: int = option(
        500,
        "most milliseconds that a request waits for its blocks; it then takes those that came",
        flag="--valkey-timeout-ms",
        check=and_(ge(1), le(5000)),
    )
    ttl_s: int = option(
        0,
        "seconds after which the server forgets a block; 0 leaves it to the server's eviction",
        flag="--valkey-ttl-s",
        check=and_(ge(0), le(10 * 365 * 86400)),
    )
    policy: Policy = option(
        "write_through",
        "share blocks as they fill, or (evict_only) as they leave memory",
        flag="--valkey-policy",
    )
    queue_mb: int = option(
        256,
        "most megabytes that wait to be written; further blocks are dropped and counted",
        flag="--valkey-queue-mb",
        check=and_(ge(1), le(2**20)),
    )
    secret: str = option(
        "",
        "key of the blocks' checksums, alike on all servers: without it nobody can forge a block",
        flag="--valkey-secret",
        secret=True,
    )


@frozen
class ValkeyTier:
    """Adds a tier of blocks on a Valkey or Redis server."""

    options: ValkeyTierOptions = ValkeyTierOptions()

    @hookimpl
    def make_cache_tier(self, layout: CacheLayout) -> CacheTier | None:
        """Connect in the background; pass for recurrent models, whose state is not shared."""
        from mlxserve_valkey_tier.tier import open_tier  # noqa: PLC0415 - starts slow

        return open_tier(layout, self.options)
