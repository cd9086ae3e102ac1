"""Chains of made-up blocks whose bytes follow from their hashes, and tiers of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mlxserve_hookspecs import Block, BlockArray, BlockKey, CacheLayout
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions
from mlxserve_plugins.ssd_tier.tier import DiskTier

BLOCK_SIZE = 4
GROUPS = (
    BlockArray(shape=(2, 2, BLOCK_SIZE, 8), dtype="BF16"),
    BlockArray(shape=(1, 2, BLOCK_SIZE, 2), dtype="U32"),
)
SIZES = (2 * 2 * BLOCK_SIZE * 8 * 2, 2 * BLOCK_SIZE * 2 * 4)


def layout(namespace: bytes = b"n" * 16, **more: Any) -> CacheLayout:
    return CacheLayout(namespace=namespace, block_size=BLOCK_SIZE, arrays=GROUPS, **more)


def key(parent: bytes, tokens: Sequence[int]) -> BlockKey:
    name = hashlib.blake2b(parent + repr(tuple(tokens)).encode(), digest_size=16).digest()
    return BlockKey(name, parent, tuple(tokens))


def chain(tokens: Sequence[int], root: bytes = b"n" * 16) -> list[BlockKey]:
    keys: list[BlockKey] = []
    for at in range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
        keys.append(key(keys[-1].hash if keys else root, tokens[at : at + BLOCK_SIZE]))
    return keys


def numbered(blocks: int, start: int = 0, root: bytes = b"n" * 16) -> list[BlockKey]:
    return chain(range(start, start + blocks * BLOCK_SIZE), root)


def block(key: BlockKey) -> Block:
    """Return the one block that may ever come back for ``key``."""
    parts = [hashlib.shake_128(key.hash + bytes([n])).digest(s) for n, s in enumerate(SIZES)]
    return Block(key=key, arrays=tuple(parts))


def blocks(keys: Sequence[BlockKey]) -> list[Block]:
    return [block(each) for each in keys]


class OpenTier(Protocol):
    def __call__(self, layout: CacheLayout = ..., **options: Any) -> DiskTier: ...


class Fill(Protocol):
    def __call__(self, keys: list[BlockKey], **options: Any) -> list[BlockKey]: ...


def make_tier(folder: Path, layout: CacheLayout, **options: Any) -> DiskTier:
    chosen = {"min_free_gb": 0.0, "flush_interval_s": 3600.0, **options}
    plugin = SsdTier(SsdTierOptions(cache_dir=folder, **chosen))
    tier = plugin.make_cache_tier(layout)
    assert isinstance(tier, DiskTier)
    return tier


def fetch(tier: DiskTier, keys: Sequence[BlockKey]) -> list[Block]:
    return list(tier.fetch(keys).result(10.0))


def run_paths(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.safetensors") if p.parent.name != "quarantine")


def run_path(folder: Path, first: BlockKey) -> Path:
    """Return where the run that begins with ``first`` is, of rank 0."""
    (path,) = (folder / "rank_0").glob(f"*/{first.hash.hex()}.safetensors")
    return path
