"""What clients wish of thinking, calls and stops, as the engine is told."""

from typing import Any

import httpx
import pytest

from ..openai.fake_engine import FakeEngine
from ..openai.test_wishes import Marked

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
WISHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "free calls": ({"tools": [TOOL]}, {}),
    "effort": (
        {"reasoning": {"effort": "low"}},
        {"type": "thinking", "thinking_budget": 1024},
    ),
    "one call": (
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"type": "tool_choice", "tool_choice": "auto", "parallel": False},
    ),
    "a forced call without thinking": (
        {"tools": [TOOL], "tool_choice": "required", "reasoning": {"effort": "none"}},
        {"type": "tool_choice", "tool_choice": "required", "thinking_budget": 0},
    ),
}


@pytest.mark.parametrize(("fields", "wanted"), WISHES.values(), ids=WISHES)
def test_wishes_become_the_requests_constraint(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], wanted: dict[str, Any]
) -> None:
    engine.text_codec = Marked()
    answer = http.post("/v1/responses", json={"input": "Hi", **fields, "stop": ["end"]})
    assert answer.status_code == 200, answer.text
    (request,) = engine.seen
    found = request.constraint or {}
    assert {name: one for name, one in found.items() if name != "tools"} == wanted
    assert request.stop.skip[0] == ("<think>", "</think>")
    assert (("<call>", "</call>") in request.stop.skip) == ("tools" in fields)
