import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_hookspecs import EngineStatus, FinishReason
from mlxserve_plugins.admission.ledger import Entry, Ledger, Visit
from mlxserve_plugins.admission.limits import (
    MINUTE,
    MOST_TENANTS,
    Bucket,
    Limiter,
    exceeds_share,
    most_tokens,
    visits,
)
from mlxserve_plugins.admission.memory import Memory, Need, is_pressed, projected
from mlxserve_plugins.admission.pace import ENOUGH, UNMEASURED_REPLY, Pace, percentile

from .scripted import IDLE, finish_of, request_of

MEMORY = Memory(block_size=16, rows=4, threshold=0.9)


# -- memory --------------------------------------------------------------------------------------


def test_a_request_needs_blocks_for_its_prompt_and_a_usual_reply_for_each_choice() -> None:
    request = request_of(prompt=20, max_tokens=30_000, choices=3)
    assert MEMORY.blocks(request, usual_reply=100) == 3 * 8  # 120 tokens
    assert MEMORY.blocks(evolve(request, choices=1), usual_reply=50_000) == 1877


def test_what_waits_for_a_row_is_not_memory() -> None:
    requests = [request_of(prompt=16, max_tokens=16)] * 10
    assert projected(requests, MEMORY, 1024) == Need(blocks=4 * 2, free_rows=0)
    assert projected(requests[:3], MEMORY, 1024) == Need(blocks=3 * 2, free_rows=1)
    several = [request_of(prompt=16, max_tokens=16, choices=3)] * 2
    assert projected(several, MEMORY, 1024) == Need(blocks=2 * 6, free_rows=0)
    assert projected([], MEMORY, 1024) == Need(blocks=0, free_rows=4)


@pytest.mark.parametrize(
    ("need", "own", "used", "pressed"),
    [
        (Need(40, 2), 49, 0, False),
        (Need(40, 2), 50, 0, True),
        (Need(40, 2), 20, 80, True),
        (Need(40, 0), 99, 0, False),
        (Need(90, 0), 1, 0, True),
        (Need(10, 0), 1, 90, True),
    ],
    ids=[
        "room for it",
        "no room for it",
        "more used than projected",
        "would wait for a row",
        "rows will fill memory",
        "rows fill memory",
    ],
)
def test_pressure_counts_what_runs_and_what_would(
    need: Need, own: int, used: int, pressed: bool
) -> None:
    status = evolve(IDLE, running=2, used_blocks=used, total_blocks=100)
    assert is_pressed(need, own, status, MEMORY) is pressed


def test_a_request_alone_is_never_refused_however_much_it_asks_for() -> None:
    assert not is_pressed(Need(0, 4), 10**6, evolve(IDLE, cached_blocks=100), MEMORY)


def test_cached_blocks_are_free_for_the_asking() -> None:
    full_of_cache = evolve(IDLE, running=1, used_blocks=10, cached_blocks=90)
    assert not is_pressed(Need(10, 3), 20, full_of_cache, MEMORY)


def test_before_the_model_is_there_memory_is_not_judged() -> None:
    assert not is_pressed(Need(5, 3), 5, EngineStatus(ready=False), MEMORY)


def test_clients_that_ask_for_far_more_than_they_get_are_not_refused_for_it() -> None:
    pace = Pace()
    for _ in range(ENOUGH):
        pace.learn(finish_of(200))
    greedy = request_of(prompt=56, max_tokens=32_768)
    need = projected([greedy] * 3, MEMORY, pace.usual_reply)
    status = evolve(IDLE, running=3, total_blocks=2048)
    assert not is_pressed(need, MEMORY.blocks(greedy, pace.usual_reply), status, MEMORY)
    assert is_pressed(
        projected([greedy] * 3, MEMORY, 32_768), MEMORY.blocks(greedy, 32_768), status, MEMORY
    )


# -- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_flight", "rows", "oldest", "seconds"),
    [
        (13, 4, 99.0, 20.0),
        (4, 4, 99.0, 2.0),
        (4, 4, 1.0, 7.0),
        (2, 100, 99.0, 4.0),
        (100, 100, 99.0, 1.0),
        (0, 4, 0.0, 8.0),
        (10**6, 1, 0.0, 300.0),
    ],
    ids=[
        "nine wait and one more",
        "the next of four that ends",
        "four that began a second ago",
        "rows that nobody takes end nothing",
        "never less than a second",
        "nothing to go by",
        "never more than five minutes",
    ],
)
def test_waiting_is_what_is_ahead_times_a_replys_seconds_shared_by_rows(
    in_flight: int, rows: int, oldest: float, seconds: float
) -> None:
    pace = Pace()
    pace.learn(finish_of(queued=5.0, total=13.0))
    assert pace.seconds(in_flight, rows, oldest) == seconds


def test_before_anything_is_measured_a_reply_takes_a_second() -> None:
    assert Pace().seconds(in_flight=6, rows=4, oldest=0.0) == 1.0
    assert Pace().seconds(in_flight=43, rows=4, oldest=0.0) == 10.0


def test_the_pace_follows_what_is_measured() -> None:
    pace = Pace()
    for seconds in [2.0] * 50 + [10.0] * 50:
        pace.learn(finish_of(total=seconds))
    assert pace.service == pytest.approx(10.0, rel=0.01)


def test_only_replies_that_ended_by_themselves_teach_anything() -> None:
    pace = Pace()
    reasons: tuple[FinishReason, ...] = ("timeout", "cancelled", "error")
    for reason in reasons:
        for _ in range(ENOUGH):
            pace.learn(finish_of(9, reason=reason, total=99.0))
    assert (pace.service, pace.usual_reply) == (None, UNMEASURED_REPLY)


def test_lengths_are_believed_when_there_are_enough_of_them() -> None:
    pace = Pace()
    for count in range(1, ENOUGH):
        pace.learn(finish_of(count))
    assert pace.usual_reply == UNMEASURED_REPLY
    pace.learn(finish_of(99))
    assert pace.usual_reply == 99


@given(st.lists(st.integers(0, 1000), min_size=1), st.floats(0.01, 1.0))
def test_percentile_is_the_least_value_that_the_share_stays_within(
    values: list[int], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


# -- rates ---------------------------------------------------------------------------------------


def test_a_bucket_refills_steadily_and_says_when_there_is_enough() -> None:
    bucket = Bucket(60, 0.0)
    for _ in range(60):
        assert bucket.wait(1, 0.0) == 0.0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait(30, 0.0) == pytest.approx(30.0)
    assert bucket.wait(1, 0.5) == pytest.approx(0.5)
    assert bucket.wait(1, 1.001) == 0.0


def test_what_costs_more_than_the_bucket_holds_gets_in_when_it_is_full_and_leaves_a_debt() -> None:
    bucket = Bucket(100, 0.0)
    assert bucket.wait(250, 0.0) == 0.0
    bucket.take(250, 0.0)
    assert bucket.wait(250, 0.0) == pytest.approx(150.0)
    assert bucket.wait(1, 0.0) == pytest.approx(151 * 0.6)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 5)), max_size=80))
def test_no_schedule_takes_more_than_the_rate_and_one_bucket(
    asked: list[tuple[int, float]],
) -> None:
    bucket, now, taken = Bucket(60, 0.0), 0.0, 0
    for cost, pause in asked:
        now += pause
        if bucket.wait(cost, now) == 0.0:
            bucket.take(cost, now)
            taken += cost
    assert taken <= 60 + now * 60 / MINUTE + 1e-6


def test_giving_back_never_fills_a_bucket_beyond_its_size() -> None:
    bucket = Bucket(10, 0.0)
    bucket.take(-100, 0.0)
    assert bucket.wait(10, 0.0) == 0.0
    bucket.take(10, 0.0)
    assert bucket.wait(1, 0.0) > 0


def test_tenants_who_are_long_gone_are_forgotten() -> None:
    limiter = Limiter(requests_per_minute=60)
    for number in range(3 * MOST_TENANTS):
        limiter.charge(request_of(tenant=f"t{number}"), first=True, now=float(number))
    assert len(limiter._tenants) <= MOST_TENANTS + 1


def test_the_tokens_that_a_request_can_come_to_include_every_choice() -> None:
    assert most_tokens(request_of(prompt=10, max_tokens=20, choices=3)) == 70


# -- shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "everybody", "most", "tenants", "over"),
    [
        (63, 63, 64, 1, False),
        (40, 50, 64, 2, False),
        (40, 56, 64, 2, True),
        (31, 63, 64, 2, False),
        (32, 63, 64, 2, True),
        (0, 63, 64, 500, False),
        (500, 500, 0, 2, False),
    ],
    ids=[
        "nobody else",
        "plenty of places",
        "last places",
        "less than a share",
        "a share",
        "many tenants",
        "no limit",
    ],
)
def test_the_last_places_are_for_who_has_less_than_a_share(
    mine: int, everybody: int, most: int, tenants: int, over: bool
) -> None:
    assert exceeds_share(mine, everybody, most, tenants) is over


# -- the ledger ----------------------------------------------------------------------------------


def test_a_visit_counts_once_however_many_requests_it_brings() -> None:
    one, other = Visit(), Visit()
    entries = [Entry(request_of(), one), Entry(request_of(), one), Entry(request_of(), other)]
    assert visits(entries) == 2


def test_an_end_that_is_told_twice_or_of_nobody_changes_nothing() -> None:
    ledger = Ledger()
    request = request_of()
    ledger.enter(Entry(request, Visit(), charge=100))
    for _ in range(3):
        ledger.finished(request.id, finish_of(4, prompt=8))
    ledger.finished("nobody", finish_of())
    ledger.started("nobody")
    assert list(ledger.take_refunds(0.0)) == [("", 88)]
    assert list(ledger.take_refunds(0.0)) == []
