import json
import re
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxserve_hookspecs import Finish, RequestError, Usage

from ..openai.fake_engine import FakeAdmission, FakeEngine
from .events import PATH, TOOL, asking, events_in, message_of, names, streamed

Eventually = Callable[[Callable[[], object]], None]
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'
TEXT = ["content_block_start text", "content_block_delta text_delta", "content_block_stop"]
THINKING = [
    "content_block_start thinking",
    "content_block_delta thinking_delta",
    "content_block_delta signature_delta",
    "content_block_stop",
]
TOOL_USE = [
    "content_block_start tool_use",
    "content_block_delta input_json_delta",
    "content_block_stop",
]
quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_a_stream_is_named_events_that_nobody_buffers(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asking(stream=True))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    events = events_in(answer.text)
    assert answer.headers["request-id"] == events[0]["message"]["id"]


def test_the_first_event_knows_the_prompt_and_the_last_but_one_the_cost(http: httpx.Client) -> None:
    events = streamed(http, asking())
    assert events[0]["message"]["usage"]["input_tokens"] == len("user:Hi\nassistant:")
    assert events[0]["message"]["stop_reason"] is None
    assert events[-2]["usage"] == http.post(PATH, json=asking()).json()["usage"]


@pytest.mark.parametrize(
    ("reply", "blocks"),
    [
        ("Hello", TEXT),
        ("", []),
        ("<think>Well.</think>Hello", THINKING + TEXT),
        ("<think>Well.</think>", THINKING),
        ("<think>cut sho", THINKING),
        (CALL, TOOL_USE),
        (CALL + CALL, TOOL_USE * 2),
        (f"Look: {CALL}", TEXT + TOOL_USE),
        (f"<think>Well.</think>Look: {CALL}{CALL}", THINKING + TEXT + TOOL_USE * 2),
        (f"<think>A</think>B<think>C</think>{CALL}D", (THINKING + TEXT) * 2),
        ("<call>no call</call>", TEXT),
    ],
)
@pytest.mark.usefixtures("parsing")
def test_blocks_come_one_after_the_other(
    http: httpx.Client, engine: FakeEngine, reply: str, blocks: list[str]
) -> None:
    engine.replies = (reply,)
    if reply.endswith("D"):
        blocks = [*THINKING, *TEXT, *THINKING, *TOOL_USE, *TEXT]
    found = names(streamed(http, asking(tools=[TOOL])))
    assert found == ["message_start", *blocks, "message_delta", "message_stop"]


pieces = st.lists(
    st.sampled_from([CALL, "<think>", "</think>", "<call>", "</call>", " ", "\n", "a", "é", "{}"]),
    max_size=8,
).map("".join)


@quick
@given(reply=pieces, one=st.booleans(), display=st.sampled_from([None, "omitted"]))
@pytest.mark.usefixtures("parsing")
def test_a_stream_spells_the_whole_message(
    http: httpx.Client, engine: FakeEngine, reply: str, one: bool, display: str | None
) -> None:
    engine.replies = (reply,)
    body = asking(
        tools=[TOOL],
        tool_choice={"type": "auto", "disable_parallel_tool_use": one},
        thinking={"type": "adaptive", "display": display},
    )
    whole = http.post(PATH, json=body).json()
    spelt = message_of(streamed(http, body))
    assert without_ids(spelt) == without_ids(whole)
    calls = [block for block in whole["content"] if block["type"] == "tool_use"]
    assert len({call["id"] for call in calls}) == len(calls)
    assert (whole["stop_reason"] == "tool_use") == bool(calls)
    assert not one or len(calls) <= 1


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    text = re.sub(r"(toolu|msg)_[0-9a-f]+", r"\1_", json.dumps(message))
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.usefixtures("parsing")
def test_anthropics_client_accumulates_a_stream(sdk: Anthropic, engine: FakeEngine) -> None:
    engine.replies = (f"<think>Well.</think>Look: {CALL}",)
    with sdk.messages.stream(**asking(tools=[TOOL])) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "Look:"
    thinking, said, call = message.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, bool(thinking.signature)) == ("Well.", True)
    assert said.type == "text"
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("weather", {"city": "Paris"})
    assert call.id.startswith("toolu_")
    assert message.stop_reason == "tool_use"
    assert message.usage.cache_read_input_tokens == 4


def test_silence_and_a_long_prefill_are_filled_with_pings(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.prefill, engine.pause, engine.replies = (5, 10), 0.15, ("H",)
    events = streamed(http, asking())
    assert events[0]["type"] == "message_start"
    pings = [event for event in events if event["type"] == "ping"]
    assert len(pings) >= 4
    assert pings[0] == {"type": "ping"}
    assert message_of(events)["content"] == [{"type": "text", "text": "H"}]


@pytest.mark.parametrize("stalled", [0, 3], ids=["before the first token", "in mid-reply"])
def test_a_reader_that_leaves_a_stream_cancels_the_request(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually, stalled: int
) -> None:
    engine.stall_after = stalled
    with http.stream("POST", PATH, json=asking(stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert engine.live == 1
    eventually(lambda: engine.live == 0)
    assert engine.closed_early == [engine.seen[0].id]


def test_a_client_that_leaves_a_whole_reply_cancels_the_request(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually
) -> None:
    engine.stall_after = 3
    with pytest.raises(httpx.ReadTimeout):
        http.post(PATH, json=asking(), timeout=0.3)
    eventually(lambda: engine.live == 0)
    assert engine.closed_early == [engine.seen[0].id]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("by", ["engine", "admission"])
def test_a_refusal_is_a_status_even_for_a_stream(
    http: httpx.Client, engine: FakeEngine, admission: FakeAdmission, stream: bool, by: str
) -> None:
    refusal = RequestError(status=429, message="full", code="queue_full", retry_after=2.2)
    (engine if by == "engine" else admission).refusal = refusal
    answer = http.post(PATH, json=asking(stream=stream))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json() == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "full"},
    }


FAILURE = Finish(
    reason="error",
    usage=Usage(prompt_tokens=1, completion_tokens=3),
    error=RequestError(status=503, message="out of room", code="out_of_memory"),
)
TIMEOUT = Finish(reason="timeout", usage=Usage(prompt_tokens=1, completion_tokens=3))


def test_a_reply_that_ran_out_of_time_keeps_what_it_has(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.failure, engine.fail_after = TIMEOUT, 3
    message = message_of(streamed(http, asking()))
    assert message["content"] == [{"type": "text", "text": "Hel"}]
    assert message["stop_reason"] == "max_tokens"


def test_a_failure_in_a_whole_reply_is_a_status(http: httpx.Client, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    answer = http.post(PATH, json=asking())
    assert answer.status_code == 503
    assert answer.json()["error"] == {"type": "overloaded_error", "message": "out of room"}


def test_a_failure_in_a_stream_is_an_event_and_its_end(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    *_, before, last = streamed(http, asking())
    assert before["delta"] == {"type": "text_delta", "text": "l"}
    assert last["type"] == "error"
    assert last["error"] == {"type": "overloaded_error", "message": "out of room"}
    assert last["request_id"] == engine.seen[0].id


def test_anthropics_client_raises_a_failure_in_a_stream(sdk: Anthropic, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    with (
        pytest.raises(anthropic.APIStatusError, match="out of room"),
        sdk.messages.stream(**asking()) as stream,
    ):
        stream.get_final_message()


@pytest.mark.parametrize("after", [0, 3], ids=["at once", "in mid-reply"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_bug_says_nothing_of_the_servers_insides(
    http: httpx.Client, engine: FakeEngine, stream: bool, after: int
) -> None:
    engine.bug, engine.fail_after = ZeroDivisionError("secret inside"), after
    answer = http.post(PATH, json=asking(stream=stream))
    assert answer.status_code == (200 if stream and after else 500)
    assert "the server failed to answer" in answer.text
    assert '"type":"api_error"' in answer.text
    assert "secret" not in answer.text
    assert "message_stop" not in answer.text
