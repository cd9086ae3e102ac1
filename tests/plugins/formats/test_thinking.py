"""Thinking that is asked for, cut short and counted."""

from typing import Any

import numpy as np
import pytest

from mlxserve_hookspecs import Constraint, Markup
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.tools import Tools
from mlxserve_plugins.tools.budget import limited
from mlxserve_plugins.tools.thinking import Meter, orders_of

from ..openai.fake_engine import FakeText
from .test_forced import WIDTH, Family, allowed, asked

THINKS = Markup(think_start="<think>", think_end="</think>")
OPEN = tuple(b"<think>\nassistant:")
CLOSE = b"\n</think>\n\n"


def budget(of: int, prompt: tuple[int, ...] = OPEN, form: str = "think") -> Constraint:
    demand = {"type": "thinking", "thinking_budget": of}
    made = Tools().make_constraint(asked(demand, prompt), Family("hermes", form), WIDTH)
    assert made is not None
    return made


def forced(constraint: Constraint) -> bytes:
    """Return what must be said, as long as there is no choice."""
    said = b""
    while len(choices := allowed(constraint)) == 1:
        constraint.advance(choices)
        said += bytes(choices)
    return said


def test_thinking_ends_with_the_models_marker_when_its_budget_is_spent() -> None:
    constraint = budget(5)
    constraint.advance(b"Hmm")
    assert constraint.mask() is None
    constraint.advance(b", ")
    assert forced(constraint) == CLOSE
    assert constraint.mask() is None
    constraint.advance(b"Yes. <think>")
    assert not constraint.finished


def test_thinking_that_ends_by_itself_is_left_alone() -> None:
    constraint = budget(30)
    constraint.advance(b"Hmm.</think>" + b"x" * 60)
    assert constraint.mask() is None


def test_a_budget_of_none_closes_thinking_as_soon_as_it_opens() -> None:
    assert forced(budget(0)) == CLOSE
    later = budget(0, prompt=(7,))
    assert later.mask() is None
    later.advance(b"<think>")
    assert forced(later) == CLOSE


def test_a_character_is_not_cut_in_two() -> None:
    constraint = budget(2)
    constraint.advance("aé".encode()[:2])
    assert constraint.mask() is None
    constraint.advance("aé".encode()[2:])
    assert forced(constraint) == CLOSE


def test_other_families_end_it_in_their_own_words() -> None:
    constraint = budget(3, prompt=(7,), form="harmony")
    constraint.advance(b"<|channel|>analysis<|message|>Hmm")
    assert forced(constraint) == b"<|end|><|start|>assistant<|channel|>final<|message|>"


def test_tokens_are_taken_back_exactly() -> None:
    constraint, said = budget(4), b"Hmm." + CLOSE + b"Yes."
    masks: list[Any] = []
    for token in said:
        masks.append(None if constraint.mask() is None else allowed(constraint))
        constraint.advance((token,))
    for at in (2, 4, 5, 12, len(said) - 1):
        constraint.rollback(len(said) - at)
        assert (None if constraint.mask() is None else allowed(constraint)) == masks[at]
        constraint.advance(said[at:])


def test_after_the_budget_the_answer_follows_its_schema() -> None:
    demand = {"type": "json_object", "schema": {"type": "integer"}, "thinking_budget": 2}
    text = Family("hermes", "think")
    constraint = Structured().make_constraint(asked(demand, OPEN), text, WIDTH)
    assert constraint is not None
    constraint.advance(b"Hm")
    said = b""
    while not said.endswith(b"</think>"):
        (token,) = allowed(constraint)
        constraint.advance((token,))
        said += bytes([token])
    constraint.advance(b"\n\n")
    assert {*b"0123456789-"} >= {token for token in allowed(constraint) if token < 256}


def test_a_model_that_marks_no_thinking_needs_no_budget() -> None:
    demand = {"type": "thinking", "thinking_budget": 2}
    assert limited(None, asked(demand), Family("hermes"), WIDTH) is None
    made = Tools().make_constraint(asked(demand), Family("hermes"), WIDTH)
    assert made is not None
    made.advance(b"abc")
    assert made.mask() is None
    assert not made.finished


def test_other_demands_are_left_to_others() -> None:
    assert Tools().make_constraint(asked({"type": "json_object"}), FakeText(), WIDTH) is None
    assert Tools().make_constraint(asked(None), FakeText(), WIDTH) is None


def metered(reasoning: bool, pieces: list[bytes], form: str = "think") -> int:
    meter = Meter(Family("hermes", form), reasoning)
    for piece in pieces:
        meter.add(piece)
    return meter.count


@pytest.mark.parametrize("reasoning", [False, True])
def test_tokens_of_thinking_are_counted_exactly_however_they_come(reasoning: bool) -> None:
    said = (b"" if reasoning else b"<think>") + b"Hm.</think>Yes. <b>"
    wanted = len(b"Hm.</think>")
    assert metered(reasoning, [said]) == wanted
    assert metered(reasoning, [bytes([one]) for one in said]) == wanted


def test_harmonys_analysis_is_thinking_each_time() -> None:
    said = b"<|channel|>analysis<|message|>ab<|end|><|start|>assistant" * 2
    assert metered(False, [said], "harmony") == 2 * len(b"ab<|end|>")


def test_a_model_without_marks_thinks_no_tokens() -> None:
    assert metered(False, [b"<think>a</think>"], "none") == 0


@pytest.mark.parametrize(
    ("switches", "wish", "template", "budget"),
    [
        (("enable_thinking",), {"effort": "none"}, {"enable_thinking": False}, 0),
        (("enable_thinking",), {"effort": "low"}, {"enable_thinking": True}, 1024),
        (("enable_thinking",), {"effort": "high"}, {"enable_thinking": True}, None),
        (("enable_thinking",), {"effort": "strange"}, {}, None),
        (("enable_thinking",), {"enabled": True}, {"enable_thinking": True}, None),
        (("enable_thinking",), {}, {}, None),
        (("thinking",), {"budget": 700}, {"thinking": True}, 700),
        (("reasoning_effort",), {"effort": "xhigh"}, {"reasoning_effort": "high"}, None),
        (("reasoning_effort",), {"effort": "none"}, {"reasoning_effort": "low"}, 0),
        (("thinking_budget",), {"effort": "low"}, {"thinking_budget": 1024}, 1024),
        ((), {"effort": "medium"}, {}, 4096),
        ((), {"budget": 0}, {}, 0),
    ],
)
def test_a_wish_becomes_the_templates_switch_or_a_budget(
    switches: tuple[str, ...], wish: Any, template: Any, budget: int | None
) -> None:
    markup = Markup(
        thinking="think", think_start="<think>", think_end="</think>", switches=switches
    )
    orders = orders_of(markup, **wish)
    assert (dict(orders.template), orders.budget) == (template, budget)


def test_a_model_that_marks_no_thinking_gets_no_budget() -> None:
    assert orders_of(Markup(), effort="low").budget is None


def test_masks_are_as_wide_as_the_logits() -> None:
    mask = budget(0).mask()
    assert mask is not None
    assert np.array(mask).shape == (WIDTH,)
