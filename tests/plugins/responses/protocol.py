"""A reader of event streams that is strict: what is out of order or does not add up, it refuses."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import httpx
from attrs import define, field

Json: TypeAlias = dict[str, Any]

LASTS = ("response.completed", "response.incomplete", "response.failed")
GROWS = {
    "response.output_text": ("message", "text"),
    "response.reasoning_text": ("reasoning", "text"),
    "response.reasoning_summary_text": ("reasoning", "text"),
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
}


def events_in(text: str) -> list[Json]:
    """Return a stream's events; each is named as its ``type`` says."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            found.append(event)
    return found


def streamed(http: httpx.Client, body: Json) -> list[Json]:
    """Return the events of a response, read strictly."""
    answer = http.post("/v1/responses", json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_in(answer.text)
    check(events)
    return events


def kinds(events: Sequence[Json]) -> list[str]:
    """Return the events' types without the common prefix, equal neighbours once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def check(events: Sequence[Json]) -> Json:
    """Return the last event's response; every event before it leads there."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    first, second, *middle, last = events
    assert first["type"] == "response.created"
    assert second["type"] == "response.in_progress"
    assert last["type"] in LASTS
    assert last["response"]["status"] == last["type"].removeprefix("response.")
    assert first["response"]["status"] == "in_progress"
    assert first["response"]["output"] == []
    assert {e["response"]["id"] for e in events if "response" in e} == {first["response"]["id"]}
    reader = Reader()
    for event in middle:
        reader.take(event)
    response: Json = last["response"]
    if last["type"] != "response.failed":
        assert reader.open is None
        assert response["output"] == reader.items
        assert response["usage"]["total_tokens"] == (
            response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
        )
    else:
        assert response["output"][: len(reader.items)] == reader.items
    return response


@define
class Reader:
    """Puts items together from their events.

    Attributes:
        items: Whole ones.
        open: The item that grows now.
        part: Its part that grows now.
    """

    items: list[Json] = field(factory=list)
    open: Json | None = None
    part: Json | None = None
    text: str | None = None
    told: bool = False

    def take(self, event: Json) -> None:
        kind = event["type"]
        if kind == "response.in_progress":
            return
        assert event["output_index"] == len(self.items)
        if kind == "response.output_item.added":
            self._add(event["item"])
            return
        assert self.open is not None
        if kind == "response.output_item.done":
            self._finish(event["item"])
            return
        assert event["item_id"] == self.open["id"]
        if kind.endswith("part.added"):
            assert self.part is None
            self._check_index(event)
            assert event["part"]["text"] == ""
            self.part, self.text, self.told = event["part"], "", False
        elif kind.endswith("part.done"):
            self._finish_part(event)
        else:
            self._grow(kind, event)

    def _add(self, item: Json) -> None:
        assert self.open is None
        assert item["status"] == "in_progress"
        empty = {"message": "content", "reasoning": "summary"}.get(item["type"])
        if empty:
            assert item[empty] == []
        else:
            assert item["arguments" if item["type"] == "function_call" else "input"] == ""
            self.text, self.told = "", False
        self.open = item

    def _grow(self, kind: str, event: Json) -> None:
        assert self.open is not None
        name, _, step = kind.rpartition(".")
        item, key = GROWS[name]
        assert self.open["type"] == item
        assert self.text is not None
        assert not self.told
        if key == "text":
            assert self.part is not None
            self._check_index(event)
        if step == "delta":
            assert event["delta"] or item.endswith("call")
            self.text += event["delta"]
        else:
            assert step == "done"
            assert event[key] == self.text
            self.told = True

    def _finish_part(self, event: Json) -> None:
        assert self.open is not None
        assert self.part is not None
        assert self.told
        self._check_index(event)
        assert event["part"]["type"] == self.part["type"]
        assert event["part"]["text"] == self.text
        where = "summary" if self.part["type"] == "summary_text" else "content"
        self.open[where] = [event["part"]]
        self.part = None

    def _finish(self, item: Json) -> None:
        assert self.open is not None
        assert self.part is None
        assert self.told
        assert item["status"] in ("completed", "incomplete")
        key = {"function_call": "arguments", "custom_tool_call": "input"}.get(item["type"])
        if key:
            self.open[key] = self.text
        assert item == self.open | {"status": item["status"]}
        self.items.append(item)
        self.open, self.text = None, None

    def _check_index(self, event: Json) -> None:
        index = "summary_index" if "summary" in event["type"] else "content_index"
        assert event[index] == 0


def plain(response: Json) -> Json:
    """Return a response without what differs from one time to the next."""
    return dict(_without_ids(response, {"id", "call_id", "created_at", "completed_at"}))


def _without_ids(found: Json, names: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, list):
            inner = [dict(_without_ids(v, names)) if isinstance(v, dict) else v for v in value]
            yield key, inner
        elif key not in names:
            yield key, value
