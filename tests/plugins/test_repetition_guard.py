"""What repeats without end is ended, soon after it is long enough; what only looks alike is not."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mlxserve_hookspecs import GenerationRequest, SamplingParams, StopConditions, StopReason
from mlxserve_plugins.repetition_guard import (
    LEAST,
    REPEATS,
    STRIDE,
    WINDOW,
    RepetitionGuard,
    RepetitionGuardOptions,
    Watch,
)

SLACK = STRIDE + 1


def guard(mode: Any = "stop") -> RepetitionGuard:
    return RepetitionGuard(RepetitionGuardOptions(mode))


def watch(constraint: Any = None, who: RepetitionGuard | None = None) -> Watch:
    request = GenerationRequest(
        id="r",
        prompt=(7,),
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=9),
        constraint=constraint,
    )
    made = (who or guard()).make_stop_condition(request, 1)
    assert isinstance(made, Watch)
    return made


def ended(tokens: Sequence[int], **more: Any) -> tuple[int, StopReason] | None:
    """Return after how many tokens they end, and why."""
    it = watch(**more)
    reasons = ((at, it.advance(token)) for at, token in enumerate(tokens, 1))
    return next(((at, reason) for at, reason in reasons if reason), None)


def letters(text: str) -> list[int]:
    """Return a token for each character: as many as any tokenizer needs."""
    return [ord(char) for char in text]


@pytest.mark.parametrize("before", [0, 1, 500, 5000])
@pytest.mark.parametrize("period", [1, 2, 3, 7, 60, 61, 122, 300, 1000, 1024])
def test_a_loop_ends_once_it_is_long_enough(period: int, before: int) -> None:
    dice = random.Random(period)
    unit = [dice.randrange(50_000) for _ in range(period)]
    prefix = [dice.randrange(50_000) for _ in range(before)]
    needed = max(LEAST, REPEATS * period)
    found = ended([*prefix, *unit * (needed // period + 100)])
    assert found is not None
    at, reason = found
    assert reason == "stop"
    assert 0 <= at - before - needed <= SLACK


def test_a_loop_with_a_rule_in_it_is_one_loop() -> None:
    unit = letters("-" * 70 + "\nAnd again, as I said before:\n")
    assert ended(unit * 60) is not None


def rows() -> Iterator[tuple[str, str]]:
    dice = random.Random(3)
    words = [f"{dice.randrange(10**6):06d}" for _ in range(1000)]
    yield (
        "a table of rows that differ in a number",
        "".join(f"| row {n} | yes | yes |\n" for n in range(900)),
    )
    yield "an array of similar records", "".join(f'{{"id": {n}, "ok": true}}, ' for n in range(900))
    yield "a rule", "=" * 900 + "\n"
    yield "rules between texts", "".join("=" * 80 + f"\n{w}\n" for w in words[:60])
    yield "code with a line that repeats", "    nop\n" * 120 + "ret\n"
    yield "a board of zeros", ("0, " * 19 + "0\n") * 15
    yield "a numbered loop", "".join(f"{n}. The same again.\n" for n in range(500))
    yield "noise", "".join(words)


@pytest.mark.parametrize("text", [pytest.param(text, id=what) for what, text in rows()])
def test_what_looks_alike_is_no_loop(text: str) -> None:
    assert ended(letters(text)) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 300), st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_is_ended_does_repeat(unit: list[int], at: int, data: Any) -> None:
    """Break a loop at some places; if it is ended, its last tokens have a period all the same."""
    tokens = unit * (3000 // len(unit))
    for place in data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=4)):
        tokens[place] = 9
    tokens = [5] * at + tokens
    found = ended(tokens)
    if found is None:
        return
    kept = tokens[: found[0]]
    periods = range(1, len(kept) // REPEATS + 1)
    assert any(
        all(kept[-n] == kept[-n - p] for n in range(1, max(LEAST, REPEATS * p) - p + 1))
        for p in periods
    )


def test_memory_is_bounded() -> None:
    it, dice = watch(), random.Random(1)
    for _ in range(20_000):
        assert it.advance(dice.randrange(1000)) is None
    assert len(it._tokens) <= WINDOW + STRIDE


def test_an_ending_is_logged_with_its_request_and_counted() -> None:
    who = guard()
    with capture_logs() as lines:
        assert ended([3, 4] * LEAST, who=who)
    (line,) = lines
    assert (line["request"], line["choice"], line["period"]) == ("r", 1, 2)
    assert who.running_totals() == {"repetition_stops": 1.0}


@pytest.mark.parametrize("kind", ["json_schema", "tool_choice", "regex"])
def test_a_reply_that_was_to_have_a_form_is_cut_and_not_complete(kind: str) -> None:
    found = ended([3] * LEAST * 2, constraint={"type": kind})
    assert found is not None
    assert found[1] == "length"


def test_a_reply_with_a_budget_for_thinking_is_as_any() -> None:
    found = ended([3] * LEAST * 2, constraint={"type": "thinking", "thinking_budget": 4})
    assert found is not None
    assert found[1] == "stop"


def test_it_is_off_unless_asked_for() -> None:
    assert RepetitionGuardOptions().mode == "off"
    request: Any = None
    assert guard("off").make_stop_condition(request, 0) is None
