"""Claude Code's requests are served as they come."""

from itertools import pairwise
from typing import Any

import httpx
import pytest

from ..openai.fake_engine import FakeEngine
from .conftest import Running
from .events import events_in, message_of
from .recorded import recorded

REQUESTS = recorded("fake")
TITLE, *TURNS = REQUESTS


def sent(http: httpx.Client, one: Any) -> dict[str, Any]:
    answer = http.post(one.path, json=one.body, headers=one.headers)
    assert answer.status_code == 200, answer.text
    return message_of(events_in(answer.text))


@pytest.mark.usefixtures("parsing")
def test_every_request_is_served_and_no_field_of_it_is_unknown(
    http: httpx.Client, engine: FakeEngine, running: Running
) -> None:
    for one in REQUESTS:
        assert sent(http, one)["stop_reason"] == "end_turn"
    adjusted = {(name, how) for _, name, how in running.stage.adjusted}
    assert adjusted == {
        ("max_tokens", "clamped"),
        ("metadata", "ignored"),
        ("context_management", "ignored"),
    }
    tools = [rendered["tools"] for rendered in engine.text_codec.rendered]
    assert [len(found or ()) for found in tools] == [0, 25, 25, 25]
    assert engine.seen[0].constraint
    assert engine.seen[0].constraint["json_schema"]["schema"]["required"] == ["title"]


def test_each_turn_begins_with_the_turn_before(http: httpx.Client, engine: FakeEngine) -> None:
    for one in TURNS:
        sent(http, one)
    prompts = [bytes(request.prompt).decode() for request in engine.seen]
    for before, after in pairwise(prompts):
        assert after.startswith(before.removesuffix("assistant:"))
        assert len(after) > len(before)


def test_the_billing_line_is_in_no_prompt(http: httpx.Client, engine: FakeEngine) -> None:
    for one in REQUESTS:
        assert "x-anthropic-billing-header" in one.body["system"][0]["text"]
        sent(http, one)
    prompts = [bytes(request.prompt).decode() for request in engine.seen]
    assert [prompt for prompt in prompts if "billing" in prompt] == []
    assert [one.partition("agent, built")[0] for one in prompts] == ["system:You are a Claude "] * 4


def test_the_loop_is_told_as_calls_and_answers(http: httpx.Client, engine: FakeEngine) -> None:
    sent(http, TURNS[-1])
    (rendered,) = engine.text_codec.rendered
    messages = rendered["messages"]
    roles = ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert [message["role"] for message in messages] == roles
    assert [message["name"] for message in messages if message["role"] == "tool"] == [
        "Bash",
        "Read",
    ]
    assert messages[2]["reasoning_content"] == "I look."
    assert messages[2]["tool_calls"][0]["function"]["arguments"]["command"] == "ls"
    assert messages[5]["content"].startswith("Error: ")
