"""Chains of made-up blocks whose bytes follow from their hashes, and tiers of them."""

import hashlib
from collections.abc import Callable, Sequence

from mlxserve_valkey_tier.tier import SharedTier

from mlxserve_hookspecs import Block, BlockArray, BlockKey, CacheLayout

from .server import until

SIZE = 4
ARRAYS = (
    BlockArray(shape=(2, SIZE, 512), dtype="BF16"),
    BlockArray(shape=(1, SIZE, 64), dtype="U32", optional=True),
)
LAYOUT = CacheLayout(namespace=b"n" * 32, block_size=SIZE, arrays=ARRAYS)
ROOT = b"r" * 16

OpenTier = Callable[..., SharedTier]


def chain(blocks: int, start: int = 0) -> list[BlockKey]:
    keys: list[BlockKey] = []
    for at in range(start, start + blocks):
        tokens = tuple(range(at * SIZE, (at + 1) * SIZE))
        parent = keys[-1].hash if keys else ROOT
        name = hashlib.blake2b(parent + repr(tokens).encode(), digest_size=16).digest()
        keys.append(BlockKey(name, parent, tokens))
    return keys


def block(key: BlockKey) -> Block:
    """Return the one block that may ever come back for ``key``."""
    return Block(
        key=key,
        arrays=tuple(
            hashlib.shake_128(key.hash + bytes([n])).digest(array.nbytes)
            for n, array in enumerate(ARRAYS)
        ),
    )


def blocks(keys: Sequence[BlockKey]) -> list[Block]:
    return [block(key) for key in keys]


def fetch(tier: SharedTier, keys: Sequence[BlockKey]) -> list[Block]:
    return list(tier.fetch(keys).result(20))


def filled(tier: SharedTier, keys: Sequence[BlockKey]) -> SharedTier:
    tier.store(blocks(keys))
    assert tier.flush(10)
    until(lambda: tier.lookup(keys) == len(keys))
    return tier
