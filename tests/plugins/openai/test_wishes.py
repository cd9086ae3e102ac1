"""What clients wish of thinking, calls and stops, as template and engine are told."""

from typing import Any

import httpx
import pytest
from attrs import evolve

from mlxserve_hookspecs import Markup

from .fake_engine import FakeEngine, FakeText

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
THOUGHTFUL = [{"role": "user", "content": "Hi<think>"}]
"""Opens the thinking, as the fake text has it."""

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]


class Marked(FakeText):
    """A model with thinking that its template can turn off, and calls."""

    markup = Markup(
        think_start="<think>",
        think_end="</think>",
        tool_start="<call>",
        tool_end="</call>",
        switches=("enable_thinking",),
        thinking="think",
    )


@pytest.fixture
def marked(engine: FakeEngine) -> FakeEngine:
    """Return the engine with a model that thinks and calls."""
    engine.text_codec = Marked()
    return engine


WISHES: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {
    "nothing": ({}, {}, None),
    "effort": ({"reasoning_effort": "low"}, {"enable_thinking": True}, 1024),
    "high effort": ({"reasoning_effort": "high"}, {"enable_thinking": True}, None),
    "no effort": ({"reasoning_effort": "none"}, {"enable_thinking": False}, 0),
    "off": ({"enable_thinking": False}, {"enable_thinking": False}, 0),
    "a budget": ({"thinking_budget": 9}, {"enable_thinking": True}, 9),
    "vLLM's budget": ({"thinking_token_budget": 9}, {"enable_thinking": True}, 9),
    "llama.cpp's budget of none": ({"reasoning_budget": -1}, {}, None),
    "Anthropic's": (
        {"thinking": {"type": "enabled", "budget_tokens": 9}},
        {"enable_thinking": True},
        9,
    ),
    "OpenRouter's": ({"reasoning": {"max_tokens": 9}}, {"enable_thinking": True}, 9),
}


@pytest.mark.parametrize(("fields", "template", "budget"), WISHES.values(), ids=WISHES)
def test_wishes_of_thinking_reach_template_and_engine(
    http: httpx.Client,
    marked: FakeEngine,
    fields: dict[str, Any],
    template: dict[str, Any],
    budget: int | None,
) -> None:
    answer = http.post(CHAT, json={"messages": HI, **fields})
    assert answer.status_code == 200, answer.text
    told = marked.text_codec.rendered[0]["kwargs"] or {}
    assert {name: told[name] for name in told if name == "enable_thinking"} == template
    (request,) = marked.seen
    assert (request.constraint or {}).get("thinking_budget") == budget


def test_nobody_is_asked_to_end_a_thinking_that_no_plugin_described(
    http: httpx.Client, marked: FakeEngine
) -> None:
    text = FakeText()
    text.markup = evolve(Marked.markup, thinking="")
    marked.text_codec = text
    assert http.post(CHAT, json={"messages": HI, "reasoning_effort": "low"}).status_code == 200
    assert marked.seen[0].constraint is None


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "free": ({"tools": [TOOL]}, None),
    "several may come": ({"tools": [TOOL], "parallel_tool_calls": True}, None),
    "one at most": (
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"tool_choice": "auto", "parallel": False},
    ),
    "strict": ({"tools": [STRICT]}, {"tool_choice": "auto", "parallel": True}),
    "forced": ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required"}),
    "none": ({"tools": [STRICT], "tool_choice": "none"}, None),
    "without tools": ({"parallel_tool_calls": False}, None),
}


@pytest.mark.parametrize(("fields", "wanted"), CALLS.values(), ids=CALLS)
def test_calls_are_held_to_their_grammar_where_the_client_says_so(
    http: httpx.Client,
    marked: FakeEngine,
    fields: dict[str, Any],
    wanted: dict[str, Any] | None,
) -> None:
    assert http.post(CHAT, json={"messages": HI, **fields}).status_code == 200
    found = marked.seen[0].constraint
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert found["type"] == "tool_choice"
    assert {name: found.get(name) for name in wanted} == wanted


STOPS: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...], bool]] = {
    "an answer": ({"messages": HI}, (("<think>", "</think>"),), False),
    "thinking that is open": ({"messages": THOUGHTFUL}, (("<think>", "</think>"),), True),
    "calls": (
        {"messages": HI, "tools": [TOOL]},
        (("<think>", "</think>"), ("<call>", "</call>")),
        False,
    ),
}


@pytest.mark.parametrize(("fields", "skip", "within"), STOPS.values(), ids=STOPS)
def test_stop_strings_end_answers_only(
    http: httpx.Client,
    marked: FakeEngine,
    fields: dict[str, Any],
    skip: tuple[tuple[str, str], ...],
    within: bool,
) -> None:
    assert http.post(CHAT, json={**fields, "stop": ["end"]}).status_code == 200
    stop = marked.seen[0].stop
    assert (stop.strings, stop.skip, stop.within_skip) == (("end",), skip, within)


def test_stop_strings_of_a_text_are_looked_for_everywhere(
    http: httpx.Client, marked: FakeEngine
) -> None:
    assert http.post("/v1/completions", json={"prompt": "a", "stop": "end"}).status_code == 200
    assert marked.seen[0].stop.skip == ()
