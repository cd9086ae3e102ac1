"""What Codex sends, recorded (texts cut, ids replaced), is served as it is."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from ..openai.fake_engine import FakeEngine
from .protocol import check, events_in

RECORDED = Path(__file__).parents[2] / "data" / "codex"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    return found | {"model": "fake"}


def served(http: httpx.Client, engine: FakeEngine, name: str) -> dict[str, Any]:
    engine.limits = type(engine.limits)(max_prompt_tokens=10**6)
    answer = http.post("/v1/responses", json=recorded(name))
    assert answer.status_code == 200, answer.text
    for event in events_in(answer.text):
        EVENT.validate_python(event)
    return check(events_in(answer.text))


@pytest.mark.parametrize("name", ["first", "second", "freeform"])
def test_its_requests_are_served_and_each_event_is_valid_to_the_sdk(
    http: httpx.Client, engine: FakeEngine, name: str
) -> None:
    engine.replies = ["<think>Hm</think>Hello"]
    assert served(http, engine, name)["status"] == "completed"


def test_its_second_turn_has_the_first_as_a_beginning(
    http: httpx.Client, engine: FakeEngine
) -> None:
    served(http, engine, "first")
    served(http, engine, "second")
    first, second = (seen["messages"] for seen in engine.text_codec.rendered)
    assert second[: len(first)] == first
    assert [message["role"] for message in second[len(first) :]] == ["assistant", "tool"]
    assert second[-2]["reasoning_content"] == "I should look."
    assert engine.text_codec.rendered[0]["tools"]
    assert engine.text_codec.rendered[0]["tools"] == engine.text_codec.rendered[1]["tools"]


def test_its_call_in_a_namespace_comes_back_in_it(http: httpx.Client, engine: FakeEngine) -> None:
    call = json.dumps({"name": "multi_agent_v1__close_agent", "arguments": {"target": "a"}})
    engine.replies = [f"<tool_call>{call}</tool_call>"]
    (made,) = served(http, engine, "first")["output"]
    assert (made["namespace"], made["name"]) == ("multi_agent_v1", "close_agent")


def test_its_patch_comes_back_as_free_text(http: httpx.Client, engine: FakeEngine) -> None:
    patch = "*** Begin Patch\n*** End Patch"
    call = json.dumps({"name": "apply_patch", "arguments": {"input": patch}})
    engine.replies = [f"<tool_call>{call}</tool_call>"]
    (made,) = served(http, engine, "freeform")["output"]
    assert (made["type"], made["name"], made["input"]) == ("custom_tool_call", "apply_patch", patch)
