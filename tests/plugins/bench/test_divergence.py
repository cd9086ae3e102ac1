from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_plugins.bench.divergence import (
    Scored,
    covered,
    departures,
    divergence,
    divergences,
    flips,
    perplexity,
)


def top(**shares: float) -> dict[str, float]:
    return {token: log(share) for token, share in shares.items()}


def scored(*tops: dict[str, float]) -> Scored:
    return Scored(logprobs=[max(one.values()) for one in tops], tops=tops)


def test_perplexity_is_one_over_the_geometric_mean_probability() -> None:
    halves = Scored(logprobs=[log(0.5)] * 3, tops=[{}] * 3)
    eighth = Scored(logprobs=[log(0.125)], tops=[{}])
    assert perplexity([halves]) == pytest.approx(2.0)
    assert perplexity([halves, eighth]) == pytest.approx(2 ** (6 / 4))


def test_equal_predictions_do_not_diverge() -> None:
    assert divergence(top(a=0.6, b=0.3), top(a=0.6, b=0.3)) == 0.0


def test_a_whole_distribution_has_its_own_divergence() -> None:
    exact = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert divergence(top(a=0.75, b=0.25), top(a=0.5, b=0.5)) == pytest.approx(exact)


def test_a_token_that_one_server_does_not_name_is_among_the_others() -> None:
    merged = 0.5 * log(0.5 / 0.5) + 0.5 * log(0.5 / 0.5)
    assert divergence(top(a=0.5, b=0.4), top(a=0.5, c=0.4)) == pytest.approx(merged)


weights = st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6)


@given(weights, weights, st.integers(1, 5))
def test_what_is_reported_is_a_lower_bound(
    left: list[float], right: list[float], count: int
) -> None:
    plain = {str(at): log(one / sum(left)) for at, one in enumerate(left)}
    other = {str(at): log(one / sum(right)) for at, one in enumerate(right)}
    exact = sum(exp(plain[at]) * (plain[at] - other[at]) for at in plain)

    def best(whole: dict[str, float]) -> dict[str, float]:
        return dict(sorted(whole.items(), key=lambda pair: -pair[1])[:count])

    assert divergence(best(plain), best(other)) <= exact + 1e-6


def test_places_are_compared_one_by_one() -> None:
    plain = [scored(top(a=0.6, b=0.4), top(a=0.9))]
    other = [scored(top(a=0.4, b=0.6), top(a=0.9))]
    assert flips(plain, other) == 500.0
    assert len(divergences(plain, other)) == 2
    assert divergences(plain, other)[1] == pytest.approx(0.0)
    assert covered(plain, other) == pytest.approx((1.0 + 0.9) / 2)


@pytest.mark.parametrize(
    ("other", "left", "rate"),
    [
        (["abcd", "abcd"], 0, 0.0),
        (["abcd", "axxx"], 1, 1000 / 6),
        (["xbcd", "axxx"], 2, 2000 / 3),
        (["abc", "abcd"], 1, 1000 / 8),
    ],
    ids=["the same", "one leaves at its second token", "both leave", "one is shorter"],
)
def test_a_reply_counts_until_it_leaves(other: list[str], left: int, rate: float) -> None:
    found = departures(["abcd", "abcd"], other)
    assert found[0] == left
    assert found[1] == pytest.approx(rate)
