import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_plugins.bench.figures import (
    Goals,
    Trace,
    decode_rate,
    middle,
    percentile,
    progress,
    rate,
    ratio,
    summary,
)

STREAM = Trace(sent=1.0, arrivals=(2.0, 3.0, 5.0), ended=6.0, completion_tokens=5)
FAILED = Trace(sent=0.0, ended=90.0, error="no")


def test_a_trace_knows_its_times() -> None:
    assert (STREAM.ttft, STREAM.gaps, STREAM.token_seconds) == (1.0, [1.0, 2.0], 0.75)


def test_a_trace_without_text_has_none() -> None:
    assert (FAILED.ttft, FAILED.gaps, FAILED.token_seconds) == (None, [], None)


def test_rates_leave_failures_out() -> None:
    other = Trace(sent=0.0, arrivals=(1.0, 2.0), ended=2.0, completion_tokens=7)
    assert rate([STREAM, other, FAILED]) == 12 / 6
    assert decode_rate([STREAM, FAILED]) == 1 / 0.75
    assert rate([FAILED]) is None


def test_goodput_counts_what_met_its_goals_over_the_whole_time() -> None:
    slow = Trace(sent=1.0, arrivals=(5.0,), ended=5.0, completion_tokens=1)
    found = summary([STREAM, slow, FAILED], Goals(ttft=1000.0))
    assert (found["goodput/s"], found["failed"]) == (1 / 5, 1)
    assert found["ttft_p50_ms"] == 1000.0


def test_without_goals_there_is_no_goodput() -> None:
    assert "goodput/s" not in summary([STREAM], Goals())


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (0.0, 1)])
def test_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile(range(1, 11), share) == value


def test_no_values_have_no_percentile_and_no_median() -> None:
    assert percentile([], 0.5) is None
    assert middle([None]) is None
    assert ratio(1.0, None) is None


def test_progress_counts_parts_of_a_token() -> None:
    assert progress((0.0, 1.0, 3.0), 0.5, 2.0) == 1.0


times = st.lists(st.floats(0.0, 100.0), min_size=2, max_size=20, unique=True).map(sorted)


@given(times, st.floats(0.0, 100.0))
def test_progress_of_two_halves_is_that_of_the_whole(arrivals: list[float], cut: float) -> None:
    whole = progress(arrivals, 0.0, 100.0)
    assert whole == pytest.approx(len(arrivals) - 1)
    halves = progress(arrivals, 0.0, cut) + progress(arrivals, cut, 100.0)
    assert halves == pytest.approx(whole)
