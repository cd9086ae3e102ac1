"""Blocks are free, used or unused, never two of them; what is unused can always be reached."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxserve.cache.chain import extend
from mlxserve.pool.blocks import SCRATCH, Blocks
from mlxserve.pool.table import Table
from mlxserve_hookspecs import BlockKey
from mlxserve_plugins.prefix_cache import LeastRecentlyUsed

SIZE = 4


def chain(tokens: list[int]) -> list[BlockKey]:
    keys: list[BlockKey] = []
    extend(keys, tokens, SIZE, b"root")
    return keys


def take(blocks: Blocks, keys: list[BlockKey]) -> Table:
    """Do what a sequence does: adopt what is there, compute the rest, name it."""
    table = Table(blocks, SIZE)
    held: list[int] = []
    for key in keys:
        number = blocks.find(key)
        if number is None:
            break
        held.append(number)
    blocks.share(held)
    table.adopt(held)
    need = len(keys) - len(held)
    if need > blocks.free:
        blocks.drop(n for n, _ in blocks.victims(need - blocks.free))
    if need <= blocks.free:
        table.grow(need, 0)
        for number, key in zip(table.numbers, keys, strict=True):
            blocks.name(number, key)
    return table


def reachable(blocks: Blocks) -> int:
    """Count unused blocks whose parents are held too."""
    held = {key.hash for _, key in blocks.keys_unused()}
    held |= {blocks._keys[n].hash for n in blocks._users if n in blocks._keys}
    return sum(key.parent in held or key.parent == b"root" for _, key in blocks.keys_unused())


def check(blocks: Blocks) -> None:
    free = {n for n in range(1, blocks.count + 1) if blocks._free[n]}
    used, named = set(blocks._users), {n for n, _ in blocks.keys_unused()}
    assert not free & used
    assert not free & named
    assert free | used | named == set(range(1, blocks.count + 1))
    assert (blocks.free, blocks.used, blocks.unused) == (len(free), len(used), len(named))
    assert SCRATCH not in free | used | named


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 1), min_size=4, max_size=24)),
        max_size=40,
    )
)
@settings(max_examples=150, deadline=None)
def test_a_block_is_in_one_place_and_what_is_unused_can_be_reached(script: Any) -> None:
    blocks = Blocks(9, LeastRecentlyUsed())
    live: list[Table] = []
    for leaves, tokens in script:
        if leaves and live:
            live.pop(0).close()
        else:
            live.append(take(blocks, chain(tokens)))
        check(blocks)
        assert reachable(blocks) == blocks.unused
    for table in live:
        table.close()
    check(blocks)
    assert blocks.used == 0


def test_a_shared_prefix_is_held_once() -> None:
    blocks = Blocks(40, LeastRecentlyUsed())
    prefix = list(range(32))
    tables = [take(blocks, chain([*prefix, n, n, n, n])) for n in range(8)]
    assert blocks.used == 8 + 8
    for table in tables[:-1]:
        table.close()
    assert (blocks.used, blocks.unused) == (9, 7)


def test_leaves_give_way_before_their_parents_in_whatever_portions() -> None:
    blocks = Blocks(64, LeastRecentlyUsed())
    for half in range(2):
        take(blocks, chain([half, *range(127)])).close()
    for gone in (1, 7, 8, 3):
        blocks.drop(n for n, _ in blocks.victims(gone))
        assert reachable(blocks) == blocks.unused
    assert blocks.unused == 64 - 19


def test_without_a_policy_nothing_stays() -> None:
    blocks = Blocks(8)
    table = take(blocks, chain(list(range(16))))
    gone = table.close()
    assert len(gone) == 4
    blocks.drop(gone)
    assert blocks.free == 8


def test_a_row_that_says_how_far_it_will_go_gets_a_place_in_one_piece() -> None:
    blocks = Blocks(64)
    first, second = Table(blocks, SIZE), Table(blocks, SIZE)
    first.grow(2, 10)
    second.grow(2, 10)
    for _ in range(8):
        first.grow(1, 0)
        second.grow(1, 0)
    assert len(first.spans(0, 40)) == len(second.spans(0, 40)) == 1


def test_a_full_pool_is_used_to_the_last_block_in_whatever_pieces() -> None:
    blocks = Blocks(7)
    tables = [Table(blocks, SIZE) for _ in range(3)]
    for table, count in zip(tables, (2, 3, 1), strict=True):
        table.grow(count, 5)
    tables[1].close()
    tables[0].grow(4, 0)
    assert blocks.free == 0
    slots = tables[0].slots(0, 24)
    spans = [slot for a, b in tables[0].spans(0, 24) for slot in range(a, b)]
    assert spans == slots
