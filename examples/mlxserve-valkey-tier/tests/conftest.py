"""A server for each test that wants one, and tiers on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlxserve_valkey_tier import ValkeyTier, ValkeyTierOptions
from mlxserve_valkey_tier.tier import SharedTier

from mlxserve_hookspecs import CacheLayout

from .made_up import LAYOUT, OpenTier
from .server import Server, servers, until


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that makes a server; it must be started."""
    with servers(tmp_path) as make:
        yield make


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """Return a server that runs."""
    server = make_server()
    server.start()
    return server


@pytest.fixture
def open_tier() -> Iterator[OpenTier]:
    """Return a function that opens a tier, and waits until it is connected if the server is up."""
    opened: list[SharedTier] = []

    def make(
        url: str, layout: CacheLayout = LAYOUT, *, wait: bool = True, **more: Any
    ) -> SharedTier:
        tier = ValkeyTier(ValkeyTierOptions(url=url, **more)).make_cache_tier(layout)
        assert isinstance(tier, SharedTier)
        opened.append(tier)
        if wait:
            until(lambda: tier.stats()["available"])
        return tier

    yield make
    for tier in opened:
        tier.close()
