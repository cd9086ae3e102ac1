"""A stream's events, and the order that they must have."""

import json
from typing import Any

import httpx

PATH = "/v1/messages"
Event = dict[str, Any]

TOOL: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def asking(content: Any = "Hi", **more: Any) -> dict[str, Any]:
    """Return a body with one user's turn."""
    return {
        "model": "fake",
        "max_tokens": 999,
        "messages": [{"role": "user", "content": content}],
        **more,
    }


def events_in(text: str) -> list[Event]:
    """Return a stream's events; each is named by its type."""
    found = []
    *frames, rest = text.split("\n\n")
    assert rest == ""
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def streamed(http: httpx.Client, body: dict[str, Any]) -> list[Event]:
    """Return the events of a request that streams."""
    answer = http.post(PATH, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    return events_in(answer.text)


def names(events: list[Event]) -> list[str]:
    """Return the events in short: their types, and those of blocks and deltas."""
    found: list[str] = []
    for event in events:
        part: Event = event.get("content_block") or event.get("delta") or {}
        kind = part.get("type")
        name = f"{event['type']} {kind}" if kind else event["type"]
        if not found or found[-1] != name:
            found.append(name)
    return found


def message_of(events: list[Event]) -> dict[str, Any]:
    """Return the message that events spell, as a client puts it together; check their order."""
    first, *blocks, delta, last = [event for event in events if event["type"] != "ping"]
    assert events[0] is first
    assert [first["type"], delta["type"], last["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    message: dict[str, Any] = first["message"]
    assert message["content"] == []
    content: list[dict[str, Any]] = message["content"]
    is_open = False
    for event in blocks:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(content)
            is_open = True
            content.append({**event["content_block"], "json": ""})
            continue
        assert is_open
        assert event["index"] == len(content) - 1
        if event["type"] == "content_block_stop":
            is_open = False
        else:
            assert event["type"] == "content_block_delta"
            _add(content[-1], event["delta"])
    assert not is_open
    for block in content:
        spelt = block.pop("json")
        if block["type"] == "tool_use":
            assert block["input"] == {}
            block["input"] = json.loads(spelt)
    return {**message, **delta["delta"], "usage": delta["usage"]}


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    kinds = {
        "text_delta": ("text", "text", "text"),
        "thinking_delta": ("thinking", "thinking", "thinking"),
        "signature_delta": ("thinking", "signature", "signature"),
        "input_json_delta": ("tool_use", "json", "partial_json"),
    }
    kind, target, source = kinds[delta["type"]]
    assert block["type"] == kind
    assert not block.get("signature"), "the signature comes last"
    block[target] += delta[source]
