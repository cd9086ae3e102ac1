"""A server that lies: whatever is not exactly the block that was asked for is a miss."""

from collections.abc import Callable
from typing import Any

import pytest
import valkey
from hypothesis import given
from hypothesis import strategies as st
from mlxserve_valkey_tier.value import TornBlockError, Values

from .made_up import LAYOUT, OpenTier, block, blocks, chain, fetch, filled
from .server import Server, until


def flipped(value: bytes) -> bytes:
    at = len(value) // 2
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


LIES: dict[str, Callable[[valkey.Valkey, str, bytes, bytes], object]] = {
    "one bit": lambda it, name, value, other: it.set(name, flipped(value)),
    "too short": lambda it, name, value, other: it.set(name, value[:-1]),
    "too long": lambda it, name, value, other: it.set(name, value + b"x"),
    "far too long": lambda it, name, value, other: it.setrange(name, 64 << 20, b"x"),
    "another block": lambda it, name, value, other: it.set(name, other),
    "another program's": lambda it, name, value, other: it.set(name, "hello"),
    "not a string": lambda it, name, value, other: (it.delete(name), it.lpush(name, "a")),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lie_is_a_miss_and_is_mended(lie: Any, server: Server, open_tier: OpenTier) -> None:
    keys, values = chain(6), Values(LAYOUT)
    tier = filled(open_tier(server.url), keys)
    name, value, other = (
        values.name(keys[3].hash),
        values.encode(block(keys[3])),
        values.encode(block(keys[4])),
    )
    with server.client() as client:
        lie(client, name, value, other)
        until(lambda: tier.lookup(keys) == 6)
        assert fetch(tier, keys) == blocks(keys[:3])
        assert tier.lookup(keys) == 3
        assert tier.stats()["torn_blocks"] == 1
        client.delete(name)
    filled(tier, keys)
    assert fetch(tier, keys) == blocks(keys)
    assert tier.stats()["trips"] == 0


def test_forger_without_the_secret_is_not_believed(server: Server, open_tier: OpenTier) -> None:
    keys = chain(3)
    filled(open_tier(server.url, secret="theirs"), keys)
    tier = open_tier(server.url, secret="ours")
    until(lambda: tier.lookup(keys) == 3)
    assert fetch(tier, keys) == []
    filled(tier, keys)
    assert fetch(tier, keys) == blocks(keys)


@given(at=st.integers(0), change=st.integers(1, 255))
def test_no_damage_goes_unseen(at: int, change: int) -> None:
    values, key = Values(LAYOUT), chain(1)[0]
    value = bytearray(values.encode(block(key)))
    assert values.decode(bytes(value), key) == block(key)
    assert len(value) <= values.most_bytes
    value[at % len(value)] ^= change
    with pytest.raises(TornBlockError):
        values.decode(bytes(value), key)


@given(junk=st.binary(max_size=300))
def test_junk_is_torn(junk: bytes) -> None:
    with pytest.raises(TornBlockError):
        Values(LAYOUT).decode(junk, chain(1)[0])
