"""Where each block of a prefix is: in memory, in a tier, nowhere; pinned or on its way at once."""

from collections.abc import Sequence as Items

from attrs import field, frozen

from mlxserve.pool.blocks import SCRATCH
from mlxserve.pool.pool import Group, Pool
from mlxserve_hookspecs import BlockKey, CacheTier


@frozen(eq=False)
class Place:
    """Where the blocks of a chain are, up to the first that nobody has.

    Attributes:
        sources: Per block the tier that loads it; ``None`` is memory.
        numbers: Per group the block's number in memory, ``SCRATCH`` where it is not.
    """

    sources: list[CacheTier | None] = field(factory=list)
    numbers: list[list[int]] = field(factory=list)


def locate(pool: Pool, tiers: Items[CacheTier], keys: Items[BlockKey]) -> Place:
    """Walk the chain: a short hit in memory hides no long one below it."""
    place = Place(numbers=[[] for _ in pool.groups])
    at = 0
    while at < len(keys):
        number = pool.groups[0].blocks.find(keys[at])
        if number is None:
            counts = ((tier, tier.lookup(keys[at:])) for tier in tiers)
            tier, count = next(((t, n) for t, n in counts if n), (None, 0))
            if tier is None:
                break
        else:
            tier, count = None, 1
        for key in keys[at : at + count]:
            place.sources.append(tier)
            for held, group in zip(place.numbers, pool.groups, strict=True):
                held.append(group.blocks.find(key) or SCRATCH)
        at += count
    return place


def first_needed(group: Group, size: int, blocks: int) -> int:
    """Return the first block that a sequence of ``blocks`` full ones still sees in a group."""
    if group.window is None or group.keep:
        return 0
    return max(blocks * size - group.window + 1, 0) // size


def longest(pool: Pool, tiers: Items[CacheTier], keys: Items[BlockKey], place: Place) -> int:
    """Return the longest prefix with all that its windows need.

    Where memory let go of what lay behind a window, and a longer prefix needs it no more, the
    longer prefix counts. A tier may have what memory lacks; then it loads that block.
    """
    windowed = [n for n, g in enumerate(pool.groups) if g.window is not None and not g.keep]
    runs, best = dict.fromkeys(windowed, 0), 0
    for at in range(len(place.sources)):
        if place.sources[at] is None and not all(place.numbers[n][at] for n in windowed):
            tier = next((t for t in tiers if t.lookup(keys[at : at + 1])), None)
            place.sources[at] = tier
        for number in windowed:
            whole = place.numbers[number][at] or place.sources[at] is not None
            runs[number] = runs[number] + 1 if whole else 0
        needed = (at + 1 - first_needed(pool.groups[n], pool.size, at + 1) for n in windowed)
        if all(runs[n] >= length for n, length in zip(windowed, needed, strict=True)):
            best = at + 1
    return best


def cut(pool: Pool, place: Place, blocks: int) -> tuple[list[list[int]], list[int]]:
    """Pin the blocks of a prefix that are in memory; return them and what is needed, by group."""
    numbers, first = [], []
    for held, group in zip(place.numbers, pool.groups, strict=True):
        begin = first_needed(group, pool.size, blocks)
        mine = [SCRATCH] * begin + held[begin:blocks]
        group.blocks.share(n for n in mine if n)
        numbers.append(mine)
        first.append(begin)
    return numbers, first


def runs(place: Place, blocks: int, pool: Pool) -> list[tuple[CacheTier, int, int]]:
    """Return ``(tier, first, count)`` of what must be loaded of a prefix."""
    found: list[tuple[CacheTier, int, int]] = []
    begins = [first_needed(group, pool.size, blocks) for group in pool.groups]
    for at in range(blocks):
        tier = place.sources[at]
        lacking = any(
            not held[at] and at >= begin
            for held, begin in zip(place.numbers, begins, strict=True)
        )
        if tier is None or not lacking:
            continue
        if found and found[-1][0] is tier and found[-1][1] + found[-1][2] == at:
            found[-1] = (tier, found[-1][1], found[-1][2] + 1)
        else:
            found.append((tier, at, 1))
    return found
