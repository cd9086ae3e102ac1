import pytest

from mlxserve_hookspecs import SettingError, TurnCost
from mlxserve_plugins.bench.overhead import OverheadFlags, outside, overhead, row

from .fake_engine import FakeHost


def turn(own: float, *, waiting: int = 0, admitted: int = 0, decoding: int = 1) -> TurnCost:
    return TurnCost(
        seconds=1.0 + own, passes=1.0, decoding=decoding, admitted=admitted, waiting=waiting
    )


def test_the_share_is_of_all_turns_together() -> None:
    assert outside([turn(0.5), turn(0.0)]) == pytest.approx(0.2)


def test_turns_are_told_apart_by_the_queue_and_by_whether_they_admit() -> None:
    first = turn(9.0)  # takes all messages in
    turns = [first, turn(0.1), turn(0.3), turn(0.8, admitted=1), turn(7.0, decoding=0)]
    turns += [turn(0.5, waiting=45), turn(9.0, waiting=30), turn(9.0, waiting=51)]
    empty, fifty = row(turns, 0, 0), row(turns, 7, 50)
    assert (empty["turns"], empty["cached"], empty["waiting"]) == (3, 0, 0)
    assert empty["own_ms"] == pytest.approx(200.0)
    assert empty["own_p90_ms"] == pytest.approx(300.0)
    assert empty["admitting_ms"] == pytest.approx(800.0)
    assert (fifty["turns"], fifty["own_ms"]) == (1, pytest.approx(500.0))
    assert fifty["admitting_ms"] is None


def test_a_queue_that_costs_is_seen_and_a_cache_that_does_not_fit_is_said() -> None:
    host = FakeHost()
    flags = OverheadFlags(requests=4, waiting=(0, 50), cached=(0, 9_000_000))
    report = overhead(flags, ("--model", "m"), host)
    assert host.asked == [("--model", "m")]
    assert host.engines[0].closed
    assert [(r["cached"], r["waiting"]) for r in report.rows] == [(0, 0), (0, 50)]
    assert report.rows[1]["own_ms"] == pytest.approx(2.0)
    assert report.rows[1]["admitting_ms"] == pytest.approx(45.0)
    assert "left out: 9000000 blocks: so many blocks do not fit" in report.notes
    assert report.about["outside_passes"] == pytest.approx(20 / (10 * 120 + 20))
    assert [point[0] for line in report.plots[0].lines.values() for point in line] == [0, 50]
    assert [(one["cached"], one["waiting"]) for one in report.raw] == [(0, 0), (0, 50)]
    assert report.raw[1]["own_ms"][0] == pytest.approx(2.0)
    assert report.raw[1]["own_ms"][-1] == pytest.approx(50.0)


def test_it_must_be_said_what_to_serve() -> None:
    with pytest.raises(SettingError, match="say what to serve"):
        overhead(OverheadFlags(), (), FakeHost())
