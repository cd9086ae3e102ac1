"""How far apart two servers' predictions are: pure functions of log-probabilities."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import exp, log
from typing import Final, TypeAlias

from attrs import field, frozen

Top: TypeAlias = Mapping[str, float]
"""The likeliest tokens' log-probabilities, by token."""

LEAST: Final = 1e-9
"""Probability below which the rest of a distribution counts as nothing."""

THOUSAND: Final = 1000.0


@frozen(kw_only=True)
class Scored:
    """What a server thinks of a text, token by token; the first token, nothing predicts.

    Attributes:
        logprobs: Of the text's own tokens.
        tops: The likeliest tokens at each place.
    """

    logprobs: Sequence[float] = field(repr=False)
    tops: Sequence[Top] = field(repr=False)


def perplexity(texts: Sequence[Scored]) -> float:
    """Return the perplexity over all tokens of all texts."""
    values = [value for text in texts for value in text.logprobs]
    return exp(-sum(values) / len(values))


def divergence(plain: Top, other: Top) -> float:
    """Return a lower bound of the KL divergence of ``other`` from ``plain``, in nats.

    Only the likeliest tokens of each are known. Those that both name are compared one by one,
    all others as one: merging outcomes never makes a divergence larger.
    """
    both = plain.keys() & other.keys()
    found = sum(exp(plain[token]) * (plain[token] - other[token]) for token in both)
    rest, others = _rest(plain, both), _rest(other, both)
    if rest > LEAST:
        found += rest * log(rest / max(others, LEAST))
    return max(found, 0.0)


def divergences(plain: Sequence[Scored], other: Sequence[Scored]) -> list[float]:
    """Return the divergence at each place of all texts."""
    return [divergence(*pair) for pair in _places(plain, other)]


def covered(plain: Sequence[Scored], other: Sequence[Scored]) -> float:
    """Return the mean probability of what was compared one by one."""
    shares = [1.0 - _rest(one, one.keys() & two.keys()) for one, two in _places(plain, other)]
    return sum(shares) / len(shares)


def flips(plain: Sequence[Scored], other: Sequence[Scored]) -> float:
    """Return at how many of 1,000 places the likeliest token is another."""
    changed = [_first(one) != _first(two) for one, two in _places(plain, other)]
    return THOUSAND * sum(changed) / len(changed)


def departures(plain: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> tuple[int, float]:
    """Return how many replies differ, and how often per 1,000 tokens one leaves the other.

    A reply that has left goes its own way: only the tokens until then count.
    """
    left, tokens = 0, 0
    for one, two in zip(plain, other, strict=True):
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))
        )
        differs = same < max(len(one), len(two))
        left += differs
        tokens += same + differs
    return left, THOUSAND * left / tokens if tokens else 0.0


def _places(plain: Sequence[Scored], other: Sequence[Scored]) -> list[tuple[Top, Top]]:
    return [
        pair
        for one, two in zip(plain, other, strict=True)
        for pair in zip(one.tops, two.tops, strict=True)
    ]


def _rest(top: Top, named: "set[str]") -> float:
    return max(0.0, 1.0 - sum(exp(top[token]) for token in named))


def _first(top: Top) -> str:
    return max(top, key=lambda token: top[token])
