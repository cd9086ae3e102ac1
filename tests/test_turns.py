"""Workers take turns: together as a rule, one by one where a test wants the machine for itself."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import pytest
from attrs import define, field

from .turns import Turns


@define
class Worker:
    """A worker of a run, and the test that it runs.

    Attributes:
        turns: What it shares with the others.
        begun: Set when its test has its turn.
        end: To be set for the test to end.
    """

    turns: Turns
    begun: Event = field(factory=Event)
    end: Event = field(factory=Event)

    def test(self, *, alone: bool) -> None:
        """Run a test until it is to end."""
        with self.turns.taken(alone=alone):
            self.begun.set()
            assert self.end.wait(20)


@pytest.fixture
def workers() -> Iterator[tuple[Worker, Worker]]:
    """Return two workers of one run."""
    run = uuid4().hex
    both = Worker(Turns(run)), Worker(Turns(run))
    yield both
    for each in both:
        each.turns.close()


def begin(pool: ThreadPoolExecutor, worker: Worker, *, alone: bool) -> "Future[None]":
    return pool.submit(worker.test, alone=alone)


@pytest.mark.parametrize(
    "alone",
    [(True, False), (False, True), (True, True)],
    ids=["the first", "the second", "both"],
)
def test_a_test_that_is_alone_waits_and_is_waited_for(
    workers: tuple[Worker, Worker], alone: tuple[bool, bool]
) -> None:
    first, second = workers
    with ThreadPoolExecutor(2) as pool:
        ends = [begin(pool, first, alone=alone[0])]
        assert first.begun.wait(20)
        ends.append(begin(pool, second, alone=alone[1]))
        assert not second.begun.wait(0.2)
        first.end.set()
        assert second.begun.wait(20)
        second.end.set()
    assert [each.result() for each in ends] == [None, None]


def test_others_run_together(workers: tuple[Worker, Worker]) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = [begin(pool, each, alone=False) for each in workers]
        assert all(each.begun.wait(20) for each in workers)
        for each in workers:
            each.end.set()
    assert [each.result() for each in ends] == [None, None]


def test_files_are_gone_with_the_run(workers: tuple[Worker, Worker]) -> None:
    for each in workers:
        each.turns.close()
    assert not any(path.exists() for path in workers[0].turns.paths)
