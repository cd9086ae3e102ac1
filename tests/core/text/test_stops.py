from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxserve.text.stops import StopMatcher


def by_definition(strings: Sequence[str], text: str) -> tuple[str, str | None]:
    """Return what is shown of ``text``, and by which string it ends: the plain definition."""
    for end in range(1, len(text) + 1):
        ending = [string for string in strings if string and text[:end].endswith(string)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def streamed(strings: Sequence[str], pieces: Sequence[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(tuple(strings))
    shown = ""
    for piece in pieces:
        safe, found = matcher.feed(piece)
        shown += safe
        if found is not None:
            return shown, found
    return shown + matcher.flush(), None


def cut(text: str, places: Sequence[int]) -> list[str]:
    borders = [0, *places, len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


few = st.text("ab", max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(few, max_size=4), st.text("abc", max_size=8))
def test_every_split_gives_what_the_definition_gives(strings: list[str], text: str) -> None:
    expected = by_definition(strings, text)
    for count in range(len(text) + 1):
        for places in combinations(range(1, max(len(text), 1)), count):
            assert streamed(strings, cut(text, places)) == expected


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(few, max_size=4))
def test_only_what_may_become_a_stop_string_is_held_back(
    data: st.DataObject, strings: list[str]
) -> None:
    matcher, text, shown = StopMatcher(tuple(strings)), "", ""
    for piece in data.draw(st.lists(st.text("abc", max_size=4), max_size=6)):
        safe, found = matcher.feed(piece)
        if found is not None:
            return
        text, shown = text + piece, shown + safe
        longest = max(
            (n for s in strings for n in range(len(s)) if text.endswith(s[:n])), default=0
        )
        assert shown == text[: len(text) - longest]


@pytest.mark.parametrize(
    ("strings", "pieces", "shown", "found"),
    [
        (("STOP",), ["go ", "ST", "OP", " on"], "go ", "STOP"),
        (("STOP",), ["go STOP on"], "go ", "STOP"),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb", "\n\n"),
        (("aab",), ["aa", "ab"], "a", "aab"),
        (("stop", "top"), ["s", "top"], "", "stop"),
        (("ab", "abc"), ["abc"], "", "ab"),
        (("abcd", "bc"), ["abcd"], "a", "bc"),
        (("😀!",), ["x😀", "!"], "x", "😀!"),
        (("",), ["abc"], "abc", None),
        ((), ["abc"], "abc", None),
    ],
    ids=[
        "over pieces",
        "within a piece",
        "started twice",
        "overlapping itself",
        "one ends another",
        "one starts another",
        "one within another",
        "beyond ASCII",
        "empty",
        "none",
    ],
)
def test_a_stop_string_is_found(
    strings: tuple[str, ...], pieces: list[str], shown: str, found: str | None
) -> None:
    assert streamed(strings, pieces) == (shown, found)


def test_nothing_is_shown_after_a_stop_string() -> None:
    matcher = StopMatcher(("x",))
    assert matcher.feed("axb") == ("a", "x")
    assert matcher.feed("c") == ("", "x")
    assert matcher.flush() == ""


def test_text_without_any_stop_string_is_shown_at_once() -> None:
    assert StopMatcher(("STOP",)).feed("go on") == ("go on", None)


def test_what_was_held_back_comes_out_at_the_end() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.feed("go STO") == ("go ", None)
    assert matcher.flush() == "STO"
    assert matcher.flush() == ""


SKIP = (("<think>", "</think>"), ("<call>", ""))


def skipping(text: Sequence[str], *strings: str, within: bool = False) -> tuple[str, str | None]:
    matcher = StopMatcher(strings, SKIP, within=within)
    shown = ""
    for piece in text:
        safe, found = matcher.feed(piece)
        shown += safe
        if found is not None:
            return shown, found
    return shown + matcher.flush(), None


@pytest.mark.parametrize(
    ("text", "within", "shown", "found"),
    [
        ("<think>a stop b</think>c stop d", False, "<think>a stop b</think>c ", "stop"),
        ("a stop b</think>c stop d", True, "a stop b</think>c ", "stop"),
        ("a stop b<think>", False, "a ", "stop"),
        ("a st<think>op</think>op", False, "a st<think>op</think>op", None),
        ("a <call>stop</call>stop", False, "a <call>stop</call>stop", None),
        ("<thin stop", False, "<thin ", "stop"),
        ("<think>stop", False, "<think>stop", None),
        ("a <thi", False, "a <thi", None),
        ("a stop<thi", False, "a ", "stop"),
        ("a sto", False, "a sto", None),
    ],
)
def test_between_markers_nothing_is_looked_for_at_any_split(
    text: str, within: bool, shown: str, found: str | None
) -> None:
    splits = [[text[:at], text[at:]] for at in range(len(text))]
    for pieces in [[text], list(text), *splits]:
        assert skipping(pieces, "stop", within=within) == (shown, found)


def test_a_marker_is_no_text_that_a_stop_string_could_be_in() -> None:
    assert skipping(["a <think>b</think> < c"], "<") == ("a <think>b</think> ", "<")
