"""What clients wish of thinking, calls and stops, as the engine is told."""

from typing import Any

import httpx
import pytest

from ..openai.fake_engine import FakeEngine
from ..openai.test_wishes import Marked

TOOL = {"name": "f", "input_schema": {"type": "object"}}
ONE = {"type": "auto", "disable_parallel_tool_use": True}
WISHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "free calls": ({"tools": [TOOL]}, {}),
    "a budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        {"type": "thinking", "thinking_budget": 2000},
    ),
    "one call": (
        {"tools": [TOOL], "tool_choice": ONE},
        {"type": "tool_choice", "tool_choice": "auto", "parallel": False},
    ),
    "a strict tool": (
        {"tools": [{**TOOL, "strict": True}]},
        {"type": "tool_choice", "tool_choice": "auto", "parallel": True},
    ),
    "a forced call after a budget": (
        {
            "tools": [TOOL],
            "tool_choice": {"type": "any"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
        {"type": "tool_choice", "tool_choice": "required", "thinking_budget": 1024},
    ),
}


@pytest.mark.parametrize(("fields", "wanted"), WISHES.values(), ids=WISHES)
def test_wishes_become_the_requests_constraint(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    engine.text_codec = Marked()
    body = {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    answer = http.post("/v1/messages", json={**body, **fields, "stop_sequences": ["end"]})
    assert answer.status_code == 200, answer.text
    (request,) = engine.seen
    found = request.constraint or {}
    assert {name: one for name, one in found.items() if name != "tools"} == wanted
    assert request.stop.skip[0] == ("<think>", "</think>")
    assert (("<call>", "</call>") in request.stop.skip) == ("tools" in fields)
