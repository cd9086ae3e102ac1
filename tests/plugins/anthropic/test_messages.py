from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from attrs import evolve

from ..openai.fake_engine import FakeEngine
from .events import PATH, TOOL, asking, message_of, streamed

NAMED = {"type": "function", "function": {"name": "weather"}}
HI: Any = {"model": "fake", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}


def test_a_message_is_anthropics(http: httpx.Client) -> None:
    answer = http.post("/v1/messages?beta=true", json=HI)
    found = answer.json()
    assert found.pop("id") == answer.headers["request-id"]
    assert found == {
        "type": "message",
        "role": "assistant",
        "model": "org/fake-model",
        "content": [{"type": "text", "text": "Hello, world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len("user:Hi\nassistant:") - 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 12,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def test_anthropics_client_reads_it(sdk: Anthropic) -> None:
    message = sdk.messages.create(**HI)
    assert message.content[0].to_dict() == {"type": "text", "text": "Hello, world"}
    assert message.stop_reason == "end_turn"


def test_what_is_asked_reaches_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    body = asking(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["x", "y", "x"],
        seed=3,
        priority=2,
        cache_salt="s",
    )
    assert http.post(PATH, json=body).status_code == 200
    (request,) = engine.seen
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (
        0.5,
        0.9,
        7,
    )
    assert request.stop.max_tokens == 5
    assert request.stop.strings == ("x", "y")
    assert (request.sampling.seed, request.priority, request.cache_salt) == (3, 2, "s")
    assert (request.tenant, request.constraint) == ("somebody", None)
    assert request.request_timeout == engine.limits.request_timeout


@pytest.mark.parametrize(
    ("fields", "greedy"), [({}, False), ({"top_p": 0}, True), ({"temperature": 0}, True)]
)
def test_no_room_for_chance_is_greedy(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], greedy: bool
) -> None:
    http.post(PATH, json=asking(**fields))
    assert engine.seen[0].sampling.greedy == greedy


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "any"}, "required"),
        (
            {"type": "tool", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
        ),
    ],
    ids=["any", "named"],
)
def test_a_forced_call_is_demanded_of_the_engine(
    http: httpx.Client, engine: FakeEngine, choice: Any, wanted: Any
) -> None:
    http.post(PATH, json=asking(tools=[TOOL], tool_choice=choice))
    function = {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": TOOL["input_schema"],
    }
    tools = [{"type": "function", "function": function}]
    expected = {"type": "tool_choice", "tool_choice": wanted, "tools": tools}
    assert engine.seen[0].constraint == expected
    assert engine.text_codec.rendered[0]["tools"] == tools


def test_without_a_choice_of_tools_the_template_knows_none(
    http: httpx.Client, engine: FakeEngine
) -> None:
    http.post(PATH, json=asking(tools=[TOOL], tool_choice={"type": "none"}))
    assert engine.text_codec.rendered[0]["tools"] is None


def test_a_schema_is_demanded_of_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "schema": schema}
    http.post(PATH, json=asking(output_config={"format": form, "effort": "low"}))
    assert engine.seen[0].constraint == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": schema},
    }


@pytest.mark.parametrize(
    ("fields", "window", "reason"),
    [
        ({}, 2048, "end_turn"),
        ({"max_tokens": 3}, 2048, "max_tokens"),
        ({"max_tokens": 32_000}, 25, "model_context_window_exceeded"),
        ({"max_tokens": 7}, 25, "max_tokens"),
        ({"stop_sequences": ["wor"]}, 2048, "stop_sequence"),
    ],
    ids=["by itself", "asked", "no room left", "asked, as much as there is", "a stop sequence"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_message_says_why_it_ended(
    http: httpx.Client,
    engine: FakeEngine,
    fields: dict[str, Any],
    window: int,
    reason: str,
    stream: bool,
) -> None:
    engine.limits = evolve(engine.limits, max_model_len=window)
    body = asking(**fields)
    message = message_of(streamed(http, body)) if stream else http.post(PATH, json=body).json()
    assert message["stop_reason"] == reason
    assert message["stop_sequence"] == ("wor" if reason == "stop_sequence" else None)


def test_no_tokens_at_all_is_a_prefill(http: httpx.Client) -> None:
    message = http.post(PATH, json=asking(max_tokens=0)).json()
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")


def test_what_nobody_limits_has_the_default_limit(http: httpx.Client, engine: FakeEngine) -> None:
    body = asking()
    del body["max_tokens"]
    http.post(PATH, json=body)
    assert engine.seen[0].stop.max_tokens == engine.limits.default_max_tokens


@pytest.mark.usefixtures("parsing")
def test_omitted_thinking_comes_back_with_its_signature(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.replies = ("<think>Well.</think>Yes",)
    body = asking(thinking={"type": "adaptive", "display": "omitted"})
    content = http.post(PATH, json=body).json()["content"]
    assert (content[0]["type"], content[0]["thinking"]) == ("thinking", "")
    body["messages"] += [
        {"role": "assistant", "content": content},
        {"role": "user", "content": "Why?"},
    ]
    http.post(PATH, json=body)
    assert engine.text_codec.rendered[-1]["messages"][1] == {
        "role": "assistant",
        "content": "Yes",
        "reasoning_content": "Well.",
    }


@pytest.mark.usefixtures("parsing")
def test_thinking_is_counted_apart(http: httpx.Client, engine: FakeEngine) -> None:
    engine.replies = ("<think>Well.</think>Yes",)
    usage = http.post(PATH, json=asking()).json()["usage"]
    assert usage["output_tokens"] == len("<think>Well.</think>Yes")
    assert 0 < usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]


def test_a_count_is_what_the_message_costs(sdk: Anthropic) -> None:
    body = asking(system="Be kind.", tools=[TOOL])
    message = sdk.messages.create(**body)
    del body["max_tokens"]
    count = sdk.messages.count_tokens(**body).input_tokens
    usage = message.usage
    assert count == usage.input_tokens + (usage.cache_read_input_tokens or 0)
