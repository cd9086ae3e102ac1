"""A forced call is written in its family's own form, and read back by the family's parser."""

import json
import random
from typing import Any

import numpy as np
import pytest

from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    Markup,
    RequestError,
    SamplingParams,
    StopConditions,
    TextCodec,
)
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.tools import Tools
from mlxserve_plugins.tools.choosing import form_of, markup_for
from mlxserve_plugins.tools.families import FORMS
from mlxserve_plugins.tools.forms import Form, objects

from ..openai.fake_engine import EOS, FakeText

WIDTH = 300
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["city", "days"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "stop"}},
]
LETTERS = [*b"ab <>{}\"\\/'\n"]


class Family(FakeText):
    """Bytes are tokens; the model's markup is a family's."""

    def __init__(self, form: str, thinking: str = "none") -> None:
        super().__init__()
        self.markup: Markup = markup_for(self, "", form, thinking)


def asked(demand: Any, prompt: tuple[int, ...] = (7,)) -> GenerationRequest:
    return GenerationRequest(
        id="r",
        prompt=prompt,
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=9),
        constraint=demand,
    )


def constrained(text: TextCodec, demand: Any, prompt: tuple[int, ...] = (7,)) -> Constraint:
    made = Structured().make_constraint(asked(demand, prompt), text, WIDTH)
    assert made is not None
    return made


def allowed(constraint: Constraint) -> list[int]:
    mask = constraint.mask()
    return [*range(WIDTH)] if mask is None else np.nonzero(np.array(mask))[0].tolist()


CLOSERS = {
    "minimax-m2": "</parameter>",
    "deepseek-v3.2": "</｜DSML｜parameter>",
    "seed-oss": "\n</parameter>",
    "qwen3-coder": "\n</parameter>",
    "longcat": "</longcat_arg_value>",
    "glm": "</arg_value>",
}
"""What free text ends with: nobody finds that by chance."""


def walk(constraint: Constraint, dice: random.Random, closer: str = "") -> bytes:
    """Say anything that is allowed, of a small alphabet where there is a choice."""
    said: list[int] = []
    while not constraint.finished and len(said) < 3000:
        choices = allowed(constraint)
        if closer and len(choices) > 200 and dice.random() < 0.2:
            constraint.advance(closer.encode())
            said += closer.encode()
            continue
        if EOS in choices and dice.random() < 0.5:
            break
        plain = [token for token in choices if 31 < token < 127] or choices
        few = [token for token in choices if token in LETTERS] or plain
        # Closing what is open is half of what is said, or no text would ever end.
        ends = [token for token in choices if token in {*b"</]|"}]
        token = dice.choice(ends if ends and dice.random() < 0.5 else few)
        if token == EOS:
            break
        constraint.advance((token,))
        said.append(token)
    return bytes(said)


FORMED = [form.name for form in FORMS]


@pytest.mark.parametrize("form", FORMED)
@pytest.mark.parametrize("seed", range(3))
def test_a_forced_call_is_what_the_familys_parser_reads(form: str, seed: int) -> None:
    text = Family(form)
    dice = random.Random(seed)
    demand = {"type": "tool_choice", "tool_choice": "required", "tools": TOOLS}
    spelt = walk(constrained(text, demand), dice, CLOSERS.get(form, "")).decode()
    parser = form_of(text.markup).parser(text.markup, TOOLS, forced=True)
    deltas = [parser.feed(spelt), parser.finish()]
    (call,) = [call for delta in deltas for call in delta.tool_calls]
    assert "".join(delta.content for delta in deltas) == ""
    arguments = json.loads(call["arguments"])
    if call["name"] == "stop":
        assert arguments == {}
        return
    assert call["name"] == "weather"
    assert {"city", "days"} <= set(arguments) <= set(PARAMETERS["properties"])
    assert isinstance(arguments["city"], str)
    assert 0 <= arguments["days"] <= 99
    assert arguments.get("unit", "C") in {"C", "F"}
    assert set(arguments.get("tags", [])) <= {"a", "b"}


OWN = {
    "hermes": b'<tool_call>{"name": "stop", "arguments": {}}</tool_call>',
    "llama3": b'{"name": "stop", "parameters": {}}',
    "mistral": b"[TOOL_CALLS]stop[ARGS]{}",
    "lfm2": b"<|tool_call_start|>[stop()]<|tool_call_end|>",
    "qwen3-coder": b"<tool_call>\n<function=stop>\n</function>\n</tool_call>",
    "glm": b"<tool_call>stop\n</tool_call>",
    "harmony": b"<|channel|>commentary to=functions.stop <|constrain|>json<|message|>{}<|call|>",
    "deepseek-v3.1": "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜>".encode(),
}


@pytest.mark.parametrize("form", OWN)
def test_it_is_in_the_familys_own_form(form: str) -> None:
    text = Family(form)
    demand = {
        "type": "tool_choice",
        "tool_choice": {"type": "function", "function": {"name": "stop"}},
        "tools": TOOLS,
    }
    constraint = constrained(text, demand)
    said = OWN[form]
    if form == "llama3":
        said = b"<|python_tag|>" + said
    for at, token in enumerate(said):
        assert token in allowed(constraint), said[: at + 1]
        constraint.advance((token,))
    assert constraint.finished or EOS in allowed(constraint)


AUTO = {"type": "tool_choice", "tool_choice": "auto", "tools": TOOLS}


def test_before_a_marker_anything_goes_and_costs_no_mask() -> None:
    constraint = constrained(Family("hermes"), AUTO)
    for token in b"I might <tool_cal":
        assert constraint.mask() is None
        constraint.advance((token,))
    constraint.advance(b"l")
    assert constraint.mask() is None
    constraint.advance(b">")
    assert set(allowed(constraint)) == {*b"\n{"}


def test_after_the_call_anything_goes_again_and_another_may_follow() -> None:
    constraint = constrained(Family("hermes"), AUTO)
    for _ in range(2):
        constraint.advance(b"<tool_call>")
        constraint.advance(b'{"name": "stop", "arguments": {}}</tool_call>')
        assert constraint.mask() is None
        assert not constraint.finished


def test_a_marker_in_the_thinking_is_no_call() -> None:
    text = Family("hermes", "think")
    constraint = constrained(text, AUTO, prompt=tuple(b"<think>\nassistant:"))
    constraint.advance(b"Is it <tool_call>?")
    assert constraint.mask() is None
    constraint.advance(b"</think><tool_call>")
    assert constraint.mask() is not None


def test_what_goes_on_with_no_call_is_left_free() -> None:
    class Wide(Family):
        def token_bytes(self, token: int) -> bytes:
            return b">!" if token == 290 else super().token_bytes(token)

    constraint = constrained(Wide("hermes"), AUTO)
    constraint.advance(b"<tool_call")
    constraint.advance((290,))
    assert constraint.mask() is None


def test_lazy_tokens_are_taken_back_exactly() -> None:
    constraint = constrained(Family("hermes"), AUTO)
    said = b'a <tool_call>{"name": "stop", "arguments": {}}</tool_call> b'
    states = []
    for token in said:
        states.append(None if constraint.mask() is None else allowed(constraint))
        constraint.advance((token,))
    dice = random.Random(4)
    for _ in range(40):
        at = dice.randrange(len(said))
        constraint.rollback(len(said) - at)
        assert (None if constraint.mask() is None else allowed(constraint)) == states[at]
        constraint.advance(said[at:])


def test_the_models_own_parser_is_asked_where_the_plugin_is_used() -> None:
    text = Family("mistral")
    parser = Tools().make_output_parser(text, TOOLS, False, True)
    assert parser is not None
    assert parser.feed("[TOOL_CALLS]stop[ARGS]{}").tool_calls[0]["name"] == "stop"


def test_harmonys_calls_are_told_by_their_recipient() -> None:
    constraint = constrained(Family("harmony"), AUTO)
    constraint.advance(b"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant")
    assert constraint.mask() is None
    constraint.advance(b"<|channel|>commentary to=functions.")
    assert set(allowed(constraint)) == {*b"ws"}
    constraint.advance(b"stop <|constrain|>json<|message|>{}<|call|>")
    assert constraint.mask() is None


def test_calls_that_begin_with_nothing_are_left_free() -> None:
    text = FakeText()
    text.markup = Markup(calls=Form(name="mine", starts={"{": objects("", bare=True)}))
    constraint = constrained(text, AUTO)
    constraint.advance(b'{"name"')
    assert constraint.mask() is None
    assert not constraint.finished


def test_an_answer_with_a_header_follows_its_schema_behind_the_header() -> None:
    text = Family("harmony", "harmony")
    constraint = constrained(text, {"type": "json_object", "schema": {"type": "integer"}})
    assert EOS not in allowed(constraint)
    constraint.advance(b"<|channel|>analysis<|message|>{<|end|><|start|>assistant")
    assert len(allowed(constraint)) > 200
    constraint.advance(b"<|channel|>final<|message|>")
    assert {*allowed(constraint)} == {*b"\n-0123456789"}


BARE = {"llama3": '{"name": "weather"', "llama4": "[weather("}


@pytest.mark.parametrize("form", BARE)
def test_a_call_without_a_marker_is_held_to_its_grammar_behind_its_head(form: str) -> None:
    text, dice = Family(form), random.Random(2)
    for lead in ("", "\n "):
        constraint = constrained(text, AUTO)
        head = (lead + BARE[form]).encode()
        for token in head:
            assert constraint.mask() is None
            constraint.advance((token,))
        said = head
        while (mask := constraint.mask()) is not None:
            choices = np.nonzero(np.array(mask))[0].tolist()
            few = [one for one in choices if one in {*b'ab"]}), 1:=citydaysprm{'}] or choices
            constraint.advance((token := dice.choice(few),))
            said += bytes([token])
        parser = form_of(text.markup).parser(text.markup, TOOLS)
        deltas = [parser.feed(said.decode()), parser.finish()]
        (call,) = [call for delta in deltas for call in delta.tool_calls]
        assert call["name"] == "weather"
        assert {"city", "days"} <= set(json.loads(call["arguments"]))


@pytest.mark.parametrize("form", BARE)
@pytest.mark.parametrize(
    "said", ['{"answer": 3}', '{"name": "nobody"}', 'Well: {"name": "weather", ', "[1, 2]", "[x("]
)
def test_what_only_looks_like_a_call_without_a_marker_is_left_free(form: str, said: str) -> None:
    constraint = constrained(Family(form), AUTO)
    for token in said.encode():
        constraint.advance((token,))
        assert constraint.mask() is None


@pytest.mark.parametrize("form", BARE)
def test_tokens_of_a_call_without_a_marker_are_taken_back_exactly(form: str) -> None:
    constraint, said = constrained(Family(form), AUTO), BARE[form].encode()
    constraint.advance(said)
    held = allowed(constraint)
    assert len(held) < 10
    constraint.rollback(1)
    assert constraint.mask() is None
    constraint.advance(said[-1:])
    assert allowed(constraint) == held


def test_behind_the_thinking_a_call_needs_no_marker_either() -> None:
    text = Family("llama3", "think")
    constraint = constrained(text, AUTO, prompt=tuple(b"<think>\nassistant:"))
    constraint.advance(b'{"name": "weather"</think>\n{"name": "weathe')
    assert constraint.mask() is None
    constraint.advance(b'r"')
    assert allowed(constraint) == [ord(",")]


ANY: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}


def test_a_free_call_of_a_function_that_cannot_be_followed_is_any_object() -> None:
    constraint = constrained(Family("hermes"), {**AUTO, "tools": [ANY]})
    constraint.advance(b'<tool_call>{"name": "odd", "arguments": {"anything": [1]}}</tool_call>')
    assert constraint.mask() is None


def test_a_strict_function_that_cannot_be_followed_is_refused() -> None:
    strict = {"type": "function", "function": {**ANY["function"], "strict": True}}
    with pytest.raises(RequestError, match="not"):
        constrained(Family("hermes"), {**AUTO, "tools": [strict]})


ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
EITHER = {"type": "json_object", "schema": ANSWER, "calls": {"tools": TOOLS, "parallel": True}}


@pytest.mark.parametrize("form", FORMED)
@pytest.mark.parametrize("parallel", [True, False], ids=["several", "one"])
def test_with_tools_a_reply_in_a_form_is_an_answer_or_calls(form: str, parallel: bool) -> None:
    text = Family(form)
    seen = set()
    for seed in range(6):
        demand = {**EITHER, "calls": {"tools": TOOLS, "parallel": parallel}}
        constraint = constrained(text, demand)
        first = text.markup.tool_start.encode()[: seed % 2]
        constraint.advance(first)
        spelt = first + walk(constraint, random.Random(seed), CLOSERS.get(form, ""))
        parser = form_of(text.markup).parser(text.markup, TOOLS)
        deltas = [parser.feed(spelt.decode()), parser.finish()]
        content = "".join(delta.content for delta in deltas).strip()
        calls = [call for delta in deltas for call in delta.tool_calls]
        assert bool(content) != bool(calls), spelt
        if content:
            assert list(json.loads(content)) == ["n"]
        for call in calls:
            assert isinstance(json.loads(call["arguments"]), dict)
        seen |= {"answer" if content else "call"}
        if not parallel:
            assert len(calls) <= 1
    assert seen == {"answer", "call"}


def test_harmonys_answer_and_calls_have_each_their_header() -> None:
    text = Family("harmony", "harmony")
    for said, more in (
        (b"<|channel|>final<|message|>", {*b"\n{"}),
        (b"<|channel|>commentary to=functions.", {*b"ws"}),
    ):
        constraint = constrained(text, EITHER)
        constraint.advance(b"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant")
        assert EOS not in allowed(constraint)
        constraint.advance(said)
        assert {*allowed(constraint)} == more
        constraint.rollback(1)
        assert len(allowed(constraint)) == WIDTH - 1
        constraint.advance(said[-1:])
        assert {*allowed(constraint)} == more
