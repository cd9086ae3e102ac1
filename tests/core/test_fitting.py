"""What fits an annotation, and what does not."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from mlxserve.fitting import fits, lacks


class Counts(Protocol):
    size: int

    @property
    def name(self) -> str: ...

    def count(self, words: Sequence[str], *, whole: bool) -> int: ...


class Good:
    size = 0
    name = "good"

    def count(self, words: Sequence[str], *, whole: bool = True, more: int = 0) -> int:
        return 0


class Short(Good):
    def count(self, words: Sequence[str]) -> int:  # type: ignore[override]
        return 0


class Numbered(Good):
    name = 3  # type: ignore[assignment]


class Uncalled(Good):
    count = 3  # type: ignore[assignment]


class Nameless:
    size = 0
    count = Good.count


class Sizeless:
    name = "sizeless"
    count = Good.count


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (np.int64(1), int),
        (1, float),
        (None, None),
        (None, int | None),
        ((1, 2), Sequence[int]),
        ({1, 2}, Collection[int]),
        ({"a": 1}, Mapping[str, float]),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ((object(), b""), tuple[Any | bytes, ...]),
        ("a", Literal["a", "b"]),
        (Future[int](), Future[int]),
        (Good(), Counts),
        (object(), object),
        ({1: 2}, object),
        ((1,), tuple[int]),
        (object(), Any),
    ],
)
def test_what_fits(value: object, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (1.5, int),
        ("1", float),
        (True, float),
        (0, None),
        ("a", int | None),
        ("ab", Sequence[str]),
        ([1, "a"], Sequence[int]),
        ({"a": "b"}, Mapping[str, float]),
        ((1, 2), tuple[int, str]),
        ((1, 2, 3), tuple[int, int]),
        ("c", Literal["a", "b"]),
        (3, Future[int]),
        (Short(), Counts),
        (3, Counts | None),
    ],
)
def test_what_does_not_fit(value: object, hint: Any) -> None:
    assert not fits(value, hint)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Good(), ""),
        (Short(), "has a count that does not take (words, whole)"),
        (Numbered(), "has a name that is int 3, not str"),
        (Uncalled(), "has a count that does not take (words, whole)"),
        (Nameless(), "has no name"),
        (Sizeless(), "has no size"),
    ],
)
def test_what_is_lacking_is_said(value: object, words: str) -> None:
    assert lacks(value, Counts) == words
