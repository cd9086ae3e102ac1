from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import BlockKey, CacheLayout
from mlxserve_plugins.ssd_tier.tier import DiskTier

from .made_up import Fill, OpenTier, blocks, layout, make_tier

LAYOUT = layout()


@pytest.fixture
def open_tier(tmp_path: Path) -> Iterator[OpenTier]:
    """Return a function that opens a tier in ``tmp_path`` and waits for its index."""
    opened: list[DiskTier] = []

    def make(layout: CacheLayout = LAYOUT, **options: Any) -> DiskTier:
        tier = make_tier(tmp_path, layout, **options)
        opened.append(tier)
        assert tier.shelf.wait_ready(10.0)
        return tier

    yield make
    for tier in opened:
        tier.close()


@pytest.fixture
def filled(open_tier: OpenTier) -> Fill:
    """Return a function that writes a chain, closes the tier, and returns the chain's keys."""

    def fill(keys: list[BlockKey], **options: Any) -> list[BlockKey]:
        tier = open_tier(**options)
        tier.store(blocks(keys))
        assert tier.flush(10.0)
        tier.close()
        return keys

    return fill
