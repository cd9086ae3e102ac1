"""Two ranks ask each other the same questions, however different their days are."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import pytest
from attrs import define, field
from tests.core.ranks.table import WAIT, AtTable, Table

from mlxserve.cache.blocks import BlockCache
from mlxserve.cache.restoring import Restorer
from mlxserve.pool.blocks import Blocks
from mlxserve.pool.layout import Layout
from mlxserve.pool.pool import Group, Pool, Shape
from mlxserve.ranks.agreement import (
    CHECKED,
    Agreement,
    BrokenPassError,
    DisagreementError,
)
from mlxserve_hookspecs import Block, BlockArray, BlockKey, CacheLayout

NOTHING: Any = None
KEYS = [BlockKey(hash=bytes([at]) * 32, parent=b"", tokens=(at,)) for at in range(4)]


def on_both(work: Callable[[AtTable], Any]) -> list[Any]:
    """Return what ``work`` returns on each of two ranks."""
    table = Table()
    with ThreadPoolExecutor(2) as pool:
        each = [pool.submit(work, AtTable(table=table, rank=rank)) for rank in range(2)]
        return [one.result(WAIT) for one in each]


def test_drafts_are_cut_where_ranks_guess_differently() -> None:
    guesses = [[(5, 6, 7), (1,), (), (8, 9)], [(5, 6, 9), (1, 2), (3,), (8, 9)]]
    both = on_both(lambda at: at.common(guesses[at.rank], 3))
    assert both == [[(5, 6), (1,), (), (8, 9)]] * 2


def test_one_rank_keeps_its_drafts() -> None:
    assert Agreement().common([(5, 6), ()], 2) == [(5, 6), ()]


@pytest.mark.parametrize("other", [[4, 3], [3, 5], [3]], ids=["order", "token", "count"])
def test_ranks_that_sampled_differently_find_out(other: list[int]) -> None:
    tokens = [[3, 4], other]

    def sample(at: AtTable) -> str:
        try:
            for step in range(CHECKED):
                at.check(tokens[at.rank] if step == 0 else [1, 2])
        except DisagreementError as error:
            return str(error)
        return "all is well"

    assert on_both(sample) == ["the ranks sampled different tokens"] * 2


def test_ranks_that_sampled_alike_go_on() -> None:
    def sample(at: AtTable) -> int:
        for _ in range(2 * CHECKED):
            at.check([3, 4])
        return at.table.met

    assert on_both(sample) == [2, 2]


def test_a_failed_pass_is_survived_alone_and_not_beside_others() -> None:
    Agreement().survive(ValueError("no"))
    beside = AtTable(table=Table(), rank=0)
    with pytest.raises(BrokenPassError, match="ValueError"):
        beside.survive(ValueError("no"))


@define(eq=False)
class Disk:
    """A tier that holds all blocks, and reads them as slowly as it is told."""

    turns: int
    name: str = "disk"
    medium: str = "host"
    _loading: list[Future[Sequence[Block]]] = field(factory=list)

    def query(self, keys: Sequence[BlockKey]) -> None:
        del keys  # known at once

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        return len(keys)

    def fetch(self, keys: Sequence[BlockKey]) -> Future[Sequence[Block]]:
        self._loading.append(Future())
        return self._loading[-1]

    def turn(self) -> None:
        self.turns -= 1
        if self.turns == 0:
            for future in self._loading:
                future.set_result([Block(key=key, arrays=()) for key in KEYS])


@define(eq=False)
class Waiting:
    """A sequence as far as a cache looks at it before it has a row."""

    restore: Any = None
    inquiry: Any = None


def empty_pool() -> Pool:
    """Return a pool whose memory holds nothing."""
    shape = Shape(Layout(()), (), (), NOTHING)
    return Pool(shape, (Group(None, 0, (), Blocks(8)),), size=1)


def test_a_faster_disk_asks_no_more_questions_than_a_slower_one() -> None:
    layout = CacheLayout(
        namespace=b"", block_size=1, arrays=(BlockArray(shape=(1,), dtype="U8"),), budget=8
    )

    def restore(at: AtTable) -> tuple[int, int]:
        disk: Any = Disk(turns=2 if at.rank else 5)
        cache = BlockCache(
            Restorer(empty_pool(), NOTHING, layout, "memory", (disk,), agreement=at), active=True
        )
        sequence: Any = Waiting()
        turns = 0
        while not cache._ready(sequence, KEYS):
            turns += 1
            disk.turn()
            at.least([turns])  # the next forward pass: both must come to it
        return turns, at.table.met

    first, second = on_both(restore)
    assert first == second
    assert first[0] == 5


def test_real_ranks_of_one_agree_with_themselves() -> None:
    alone = Agreement(mx.distributed.init())
    assert alone.alone
    assert alone.least([3, 1]) == [3, 1]
