"""Block hashes: each block is named by its tokens and by everything before them."""

import hashlib
from array import array
from collections.abc import Sequence

from mlxserve_hookspecs import BlockKey

DIGEST = 16
"""Bytes of a hash: 128 bits; a hit compares tokens all the same."""


def root(namespace: bytes, salt: str) -> bytes:
    """Return the parent of a first block: requests of another salt share nothing."""
    return hashlib.blake2b(salt.encode(), key=namespace[:64], digest_size=DIGEST).digest()


def extend(chain: list[BlockKey], tokens: Sequence[int], block_size: int, start: bytes) -> None:
    """Append the keys of the full blocks of ``tokens`` that ``chain`` does not have yet."""
    for at in range(len(chain) * block_size, len(tokens) - block_size + 1, block_size):
        mine = tuple(tokens[at : at + block_size])
        parent = chain[-1].hash if chain else start
        chain.append(BlockKey(_hash(parent, mine), parent, mine))


def common(one: Sequence[BlockKey], other: Sequence[BlockKey]) -> int:
    """Return how many leading blocks two chains share."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine.hash != theirs.hash:
            break
        count += 1
    return count


def _hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("I", tokens).tobytes(), key=parent, digest_size=DIGEST).digest()
