import random
from collections.abc import Mapping, Sequence

import pytest
from attrs import define, field

from mlxserve_hookspecs import DraftRoom, EngineStatus, Iteration, Verdict
from mlxserve_plugins.spec_decode.costs import ENOUGH, Costs, bucket
from mlxserve_plugins.spec_decode.planner import (
    FIRST_PAUSE,
    PROBE,
    REFRESH,
    Outlook,
    Planner,
    Policy,
    best_width,
    gain,
)
from mlxserve_plugins.spec_decode.record import FIRST_RATE, Record

READY = EngineStatus(ready=True)


def plain_step(rows: int, seconds: float, prefilled: int = 0) -> Iteration:
    return Iteration(seconds=seconds, prefilled=prefilled, decoded=rows, status=READY)


@define(eq=False)
class World:
    """Rows whose drafts go well or badly, and a machine with a price for every width.

    Attributes:
        planner: Under test.
        acceptance: Each row's probability that a draft's token stays.
        slope: What a further token per row costs, in plain steps.
        coverage: How often a proposer has a draft.
        jitter: Relative noise of the clock.
        own: What a proposer itself takes, in plain steps.
    """

    planner: Planner
    acceptance: list[float]
    slope: float
    coverage: float = 1.0
    jitter: float = 0.05
    own: float = 0.0
    seconds: float = 0.0
    tokens: list[int] = field(factory=list)
    lengths: list[Mapping[int, int]] = field(factory=list)
    chance: random.Random = field(factory=lambda: random.Random(1))

    def run(self, steps: int) -> None:
        self.tokens = self.tokens or [0] * len(self.acceptance)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        rows = range(len(self.acceptance))
        planned = dict(self.planner.plan([DraftRoom(uid=u, most=100) for u in rows]))
        self.lengths.append(planned)
        drafts = {u: k for u, k in planned.items() if self.chance.random() < self.coverage}
        noise = 1 + self.jitter * self.chance.random()
        if not drafts:
            late = 0.05 if planned else 0.0
            self.seconds += (1 + late) * noise
            self.planner.iterated(plain_step(len(rows), noise))
            self.tokens = [n + 1 for n in self.tokens]
            return
        took = (1 + self.own + self.slope * max(drafts.values())) * noise
        self.planner.iterated(plain_step(len(rows), noise))
        verdicts = []
        for uid in rows:
            kept = 0
            while kept < drafts.get(uid, 0) and self.chance.random() < self.acceptance[uid]:
                kept += 1
            self.tokens[uid] += kept + 1
            verdicts.append(Verdict(uid=uid, drafted=drafts.get(uid, 0), accepted=kept))
        self.planner.learn(verdicts, took)
        self.seconds += took

    @property
    def speedups(self) -> list[float]:
        """Each row's tokens in the time of a plain step."""
        return [tokens / (self.seconds / (1 + self.jitter / 2)) for tokens in self.tokens]


def world(acceptance: Sequence[float], slope: float, coverage: float = 1.0) -> World:
    return World(Planner(Policy()), list(acceptance), slope, coverage)


def usual(of: World, last: int = 200) -> int:
    lengths = [max(planned.values(), default=0) for planned in of.lengths[-last:]]
    return max(set(lengths), key=lengths.count)


@pytest.mark.parametrize(
    ("acceptance", "slope", "k"),
    [
        (0.95, 0.02, {5}),
        (0.8, 0.15, {2, 3, 4}),
        (0.5, 0.2, {1, 2}),
        (0.1, 0.3, {0}),
        (0.0, 0.05, {0}),
    ],
    ids=["copying, cheap", "good, dearer", "fair", "poor", "useless"],
)
def test_k_converges_to_what_pays(acceptance: float, slope: float, k: set[int]) -> None:
    it = world([acceptance], slope)
    it.run(600)
    assert usual(it) in k


@pytest.mark.parametrize("slope", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("acceptance", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("rows", [1, 4, 8])
@pytest.mark.parametrize("coverage", [1.0, 0.3, 0.0])
def test_nobody_is_noticeably_slower_than_without_drafts(
    slope: float, acceptance: float, rows: int, coverage: float
) -> None:
    it = world([acceptance] * rows, slope, coverage)
    it.run(1500)
    assert min(it.speedups) >= 0.95


def test_copy_like_work_is_faster() -> None:
    it = world([0.95] * 4, 0.1)
    it.run(400)
    assert min(it.speedups) > 2.0


def test_a_row_that_gains_nothing_is_not_slowed_down_by_one_that_gains() -> None:
    it = world([0.95, 0.0], 0.4)
    it.run(1000)
    assert min(it.speedups) >= 0.95


def test_work_that_becomes_copy_like_is_noticed_by_a_probe() -> None:
    it = world([0.0], 0.1)
    it.run(500)
    assert usual(it, 100) == 0
    it.acceptance[0] = 0.95
    it.run(700)
    assert usual(it, 100) >= 3


def test_work_that_stops_being_copy_like_is_noticed_at_once() -> None:
    it = world([0.95], 0.2)
    it.run(300)
    assert usual(it, 50) >= 3
    it.acceptance[0] = 0.0
    it.run(60)
    assert usual(it, 30) == 0


def test_probes_become_rarer_while_they_fail() -> None:
    it = world([0.0], 0.5)
    it.run(3000)
    drafted = [at for at, planned in enumerate(it.lengths) if planned]
    late = [b - a for a, b in zip(drafted[-4:], drafted[-3:], strict=False)]
    assert min(late) >= 4 * FIRST_PAUSE
    assert {max(it.lengths[at].values()) for at in drafted[-3:]} == {PROBE}


@pytest.mark.parametrize("own", [0.5, 3.0, 50.0])
def test_a_dear_proposer_of_no_use_does_not_slow_short_requests_down(own: float) -> None:
    it = world([0.0], 0.1)
    it.run(200)
    it.own, before = own, it.seconds
    for _ in range(100):
        it.run(64)
        it.planner.finished([0])
    assert 6400 * (1 + it.jitter / 2) / (it.seconds - before) >= 0.97
    assert it.planner.probes > 2


def test_plain_steps_are_measured_again_from_time_to_time() -> None:
    it = world([1.0], 0.01)
    it.run(5 * REFRESH)
    plain = sum(not planned for planned in it.lengths[REFRESH:])
    assert 3 <= plain <= 20


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    planner = Planner(Policy())
    room = [DraftRoom(uid=1, most=9)]
    for _ in range(ENOUGH + 1):
        assert planner.plan(room) == {}
        planner.iterated(plain_step(1, 0.01))
    assert planner.plan(room)[1] > 0


def test_above_the_batch_size_nothing_is_drafted() -> None:
    for dynamic in (True, False):
        planner = Planner(Policy(most_rows=2, dynamic=dynamic))
        assert planner.plan([DraftRoom(uid=u, most=9) for u in range(3)]) == {}


def test_without_dynamic_k_is_fixed_within_the_room() -> None:
    planner = Planner(Policy(most=5, dynamic=False))
    rooms = [DraftRoom(uid=0, most=9), DraftRoom(uid=1, most=2), DraftRoom(uid=2, most=0)]
    for _ in range(20):
        assert planner.plan(rooms) == {0: 5, 1: 2}
        planner.learn([Verdict(uid=0, drafted=5, accepted=0)], 9.0)


def test_without_adaptive_k_it_is_all_or_nothing() -> None:
    for acceptance in (0.95, 0.0):
        it = World(Planner(Policy(adaptive=False)), [acceptance], 0.1)
        it.run(500)
        seen = {k for planned in it.lengths for k in planned.values()}
        assert seen <= {PROBE, 5}
        assert usual(it) == (5 if acceptance else 0)


def test_a_prefill_beside_a_pass_is_not_taken_for_its_price() -> None:
    planner = Planner(Policy())
    for _ in range(6):
        planner.plan([DraftRoom(uid=1, most=0)])
        planner.iterated(plain_step(1, 0.01))
    known = planner.costs.plain(1)
    planner.iterated(plain_step(1, 5.0, prefilled=500))
    planner.learn([Verdict(uid=1, drafted=3, accepted=0)], 5.0)
    assert planner.costs.plain(1) == known
    assert planner.costs.passes == 0


def test_a_new_row_starts_from_what_the_others_taught() -> None:
    planner = Planner(Policy())
    for uid in range(40):
        planner._asked = {uid: 5}
        planner.learn([Verdict(uid=uid, drafted=5, accepted=0)], 1.0)
        planner.finished([uid])
    assert planner._outlook(DraftRoom(uid=99, most=5)).survival[0] < 0.2
    planner.finished([99])
    assert planner._records == {}


def test_a_cost_between_two_known_ones_lies_between_them() -> None:
    costs = Costs()
    for _ in range(ENOUGH):
        costs.took_plain(3, 1.0)
        costs.took(4, 5, 2.0)
    assert costs.of(4, 5) == pytest.approx(2.0)
    assert costs.of(3, 3) == pytest.approx(1.5)
    assert costs.of(4, 6) == pytest.approx(2.25)
    assert costs.of(1, 3) is None


def test_one_pause_hardly_moves_a_cost_and_the_first_of_a_shape_does_not_count() -> None:
    costs = Costs()
    for seconds in (1.0, 1.0, 1.0, 100.0):
        costs.took_plain(1, seconds)
    assert costs.plain(1) == pytest.approx(1.2)
    costs.took(1, 3, 100.0)
    assert costs.of(1, 3) == pytest.approx(1.2 * 1.2)


def test_rows_share_prices_by_powers_of_two() -> None:
    assert [bucket(rows) for rows in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_a_record_knows_all_or_nothing_from_mediocre() -> None:
    record = Record(4)
    for at in range(40):
        record.judged(4, 4 if at % 2 else 0)
    survival = record.survival()
    assert survival[0] == pytest.approx(0.5, abs=0.15)
    assert survival[3] > 0.75 * survival[0]
    assert Record(2).survival() == [FIRST_RATE, FIRST_RATE**2]


def test_gain_is_tokens_over_time_and_zero_where_somebody_would_lose() -> None:
    sure, hopeless = Outlook(5, 1.0, [1.0] * 5), Outlook(5, 1.0, [0.0] * 5)
    assert gain([sure], 6, 1.0, 1.5) == pytest.approx(4.0)
    assert gain([sure, hopeless], 6, 1.0, 1.04) == pytest.approx(3.5 / 1.04)
    assert gain([sure, hopeless], 6, 1.0, 1.2) == 0.0
    assert best_width([sure], Costs(), [2, 3]) == 1
