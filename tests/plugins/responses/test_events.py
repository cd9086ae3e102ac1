import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from mlxserve_hookspecs import Finish, RequestError, Usage

from ..openai.fake_engine import FakeAdmission, FakeEngine
from .protocol import check, events_in, kinds, plain, streamed

Eventually = Callable[[Callable[[], object]], None]

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "parameters": PLACE, "strict": True}
PATCH = {"type": "custom", "name": "patch", "description": "Edits."}
SPACE = {
    "type": "namespace",
    "name": "mail",
    "description": "Letters.",
    "tools": [{"type": "function", "name": "send"}, PATCH],
}
HI = {"input": "Hi", "tools": [WEATHER, PATCH, SPACE]}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
OTHER = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
EDIT = '<tool_call>{"name": "patch", "arguments": {"input": "+ a\\n- b"}}</tool_call>'
SEND = '<tool_call>{"name": "mail__send", "arguments": {}}</tool_call>'

STARTED = ["created", "in_progress"]
SAID = [
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
    "content_part.done", "output_item.done",
]  # fmt: skip
EMPTY = [one for one in SAID if "delta" not in one]
THOUGHT = [one.replace("output_text", "reasoning_text") for one in SAID]
SUMMED = [
    "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
    "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
]  # fmt: skip
CALLED = [
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
    "output_item.done",
]  # fmt: skip
CUSTOM = [one.replace("function_call_arguments", "custom_tool_call_input") for one in CALLED]
ORDERS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "text": ("Hello", {}, SAID),
    "thinking": ("<think>Hm</think>Yes", {}, THOUGHT + SAID),
    "summary": ("<think>Hm</think>Yes", {"reasoning": {"summary": "auto"}}, SUMMED + SAID),
    "old name": ("<think>Hm</think>", {"reasoning": {"generate_summary": "auto"}}, SUMMED + EMPTY),
    "no summary": ("<think>Hm</think>Y", {"reasoning": {"summary": "none"}}, THOUGHT + SAID),
    "call": (CALL, {}, CALLED),
    "two calls": (CALL + OTHER, {}, CALLED + CALLED),
    "text, then a call": (f"Let me see.{CALL}", {}, SAID + CALLED),
    "a call, then text": (f"{CALL}Done.", {}, CALLED + SAID),
    "everything": (f"<think>Hm</think>So{CALL}{EDIT}", {}, THOUGHT + SAID + CALLED + CUSTOM),
    "thinking between": (f"<think>a</think>{CALL}<think>b", {}, THOUGHT + CALLED + THOUGHT),
    "custom": (EDIT, {}, CUSTOM),
    "namespace": (SEND, {}, CALLED),
    "one call only": (CALL + OTHER + "more", {"parallel_tool_calls": False}, CALLED),
    "nothing": ("", {}, EMPTY),
    "thinking alone": ("<think>Hm</think>", {}, THOUGHT + EMPTY),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "fields", "order"), ORDERS.values(), ids=ORDERS)
def test_every_kind_of_reply_has_its_events_in_order(
    http: httpx.Client, engine: FakeEngine, reply: str, fields: dict[str, Any], order: list[str]
) -> None:
    engine.replies = [reply]
    assert kinds(streamed(http, HI | fields)) == [*STARTED, *order, "completed"]


@pytest.mark.parametrize(("reply", "fields"), [o[:2] for o in ORDERS.values()], ids=ORDERS)
def test_a_stream_ends_with_what_the_whole_answer_is(
    http: httpx.Client, engine: FakeEngine, reply: str, fields: dict[str, Any]
) -> None:
    engine.replies = [reply]
    last = streamed(http, HI | fields)[-1]["response"]
    whole = http.post("/v1/responses", json=HI | fields).json()
    assert plain(last) == plain(whole)


@pytest.mark.parametrize("tokens", range(1, 60, 7))
def test_a_reply_that_is_cut_is_incomplete_wherever_that_happens(
    http: httpx.Client, engine: FakeEngine, tokens: int
) -> None:
    engine.replies = [f"<think>Let me think.</think>So:{CALL}"]
    events = streamed(http, HI | {"max_output_tokens": tokens})
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == tokens
    assert all(item["status"] == "completed" for item in response["output"][:-1])


def test_a_reply_that_is_cut_while_thinking_says_nothing(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.replies = ["<think>Let me think.</think>So"]
    (item,) = http.post("/v1/responses", json=HI | {"max_output_tokens": 12}).json()["output"]
    assert item["type"] == "reasoning"
    assert item["status"] == "incomplete"
    assert item["content"] == [{"type": "reasoning_text", "text": "Let m"}]


def test_calls_carry_the_names_that_the_client_gave(http: httpx.Client, engine: FakeEngine) -> None:
    inner = '<tool_call>{"name": "mail__patch", "arguments": {"input": "x"}}</tool_call>'
    strange = '<tool_call>{"name": "nobody", "arguments": {"a": 1}}</tool_call>'
    engine.replies = [CALL + EDIT + SEND + inner + strange]
    calls = http.post("/v1/responses", json=HI).json()["output"]
    assert [(c["type"], c["name"], c.get("namespace")) for c in calls] == [
        ("function_call", "weather", None),
        ("custom_tool_call", "patch", None),
        ("function_call", "send", "mail"),
        ("custom_tool_call", "patch", "mail"),
        ("function_call", "nobody", None),
    ]
    assert calls[0]["arguments"] == '{"city": "Rome"}'
    assert calls[1]["input"] == "+ a\n- b"
    assert len({c["call_id"] for c in calls}) == len(calls)


@pytest.mark.parametrize("arguments", ['{"other": 1}', "{}", '{"input": 3}'])
def test_a_custom_call_of_another_shape_keeps_what_the_model_wrote(
    http: httpx.Client, engine: FakeEngine, arguments: str
) -> None:
    engine.replies = [f'<tool_call>{{"name": "patch", "arguments": {arguments}}}</tool_call>']
    (call,) = http.post("/v1/responses", json=HI).json()["output"]
    assert call["input"] == arguments


def test_usage_tells_cached_and_thought_tokens(http: httpx.Client, engine: FakeEngine) -> None:
    engine.replies = ["<think>Hm</think>Yes"]
    usage = http.post("/v1/responses", json={"input": "Hi"}).json()["usage"]
    assert usage == {
        "input_tokens": len("user:Hi\nassistant:"),
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": len("<think>Hm</think>Yes"),
        "output_tokens_details": {"reasoning_tokens": len("Hm</think>")},
        "total_tokens": len("user:Hi\nassistant:<think>Hm</think>Yes"),
    }


def test_log_probabilities_are_the_texts_and_not_the_thinkings(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.replies = ["<think>Hm</think>Yes"]
    asked = {"input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    events = streamed(http, asked)
    (part,) = events[-1]["response"]["output"][1]["content"]
    assert "".join(entry["token"] for entry in part["logprobs"]).endswith("Yes")
    assert "H" not in [entry["token"] for entry in part["logprobs"]]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    told = [entry for event in events if "delta" in event for entry in event.get("logprobs", [])]
    assert told == part["logprobs"]


def test_the_sdk_puts_a_stream_together(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = [f"<think>Hm</think>So{CALL}"]
    asked: Any = HI
    with sdk.responses.stream(model="fake", **asked) as stream:
        seen = [event.type for event in stream]
        found = stream.get_final_response()
    assert seen[-1] == "response.completed"
    assert found.output_text == "So"
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call"]


def test_the_headers_say_that_nobody_is_to_buffer(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json=HI | {"stream": True})
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


BROKEN = RequestError(status=500, message="a row failed", code="row_failed")
NOTHING = Usage(prompt_tokens=1, completion_tokens=0)


def test_a_reply_that_fails_ends_with_an_event_that_says_why(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.failure, engine.fail_after = Finish(reason="error", usage=NOTHING, error=BROKEN), 3
    events = streamed(http, HI)
    assert kinds(events)[-2:] == ["output_text.delta", "failed"]
    response = events[-1]["response"]
    assert response["error"] == {"code": "row_failed", "message": "a row failed"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert http.get(f"/v1/responses/{response['id']}").status_code == 404


def test_a_timeout_in_a_stream_is_told(http: httpx.Client, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = Finish(reason="timeout", usage=NOTHING), 2
    assert "timeout" in streamed(http, HI)[-1]["response"]["error"]["message"]


def test_a_bug_in_a_stream_is_told_without_its_words(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.bug, engine.fail_after = ValueError("secret"), 3
    events = streamed(http, HI)
    assert events[-1]["type"] == "response.failed"
    assert "secret" not in str(events)


def test_a_failure_before_the_first_event_is_a_status(
    http: httpx.Client, engine: FakeEngine, sdk: OpenAI
) -> None:
    engine.refusal = RequestError(status=429, message="full", retry_after=2)
    answer = http.post("/v1/responses", json=HI | {"stream": True})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    with pytest.raises(openai.RateLimitError):
        sdk.responses.create(model="fake", input="Hi", stream=True)


def test_a_refusal_after_a_silence_is_an_event(http: httpx.Client, engine: FakeEngine) -> None:
    engine.prefill, engine.pause, engine.fail_after = [3, 5], KEEPALIVE_TWICE, 0
    full = RequestError(status=429, message="full")
    engine.failure = Finish(reason="error", usage=NOTHING, error=full)
    events = streamed(http, HI)
    assert events[-1]["response"]["error"] == {"code": "rate_limit_exceeded", "message": "full"}


KEEPALIVE_TWICE = 0.25


def test_a_silence_has_signs_of_life_and_tells_how_far_the_prompt_is(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.prefill, engine.pause, engine.replies = [3, 5], KEEPALIVE_TWICE, ["a"]
    answer = http.post("/v1/responses", json={"input": "Hi", "stream": True})
    check(events_in(answer.text))
    names = [event["type"] for event in events_in(answer.text)]
    assert names.count("response.in_progress") >= 3
    assert ": keepalive prefilled 3/18\n" in answer.text
    assert ": keepalive prefilled 5/18\n" in answer.text


def test_a_client_that_leaves_ends_the_reply(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually
) -> None:
    engine.stall_after = 3
    with http.stream("POST", "/v1/responses", json=HI | {"stream": True}) as answer:
        lines = answer.iter_lines()  # kept: its end would close the connection
        next(lines)
        assert engine.live == 1
    eventually(lambda: engine.live == 0)
    assert len(engine.closed_early) == 1


def test_a_client_that_leaves_before_a_whole_answer_ends_it_too(
    running: Any, engine: FakeEngine, eventually: Eventually
) -> None:
    engine.stall_after = 3

    def ask() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/responses", json=HI, timeout=0.4)

    thread = threading.Thread(target=ask)
    thread.start()
    eventually(lambda: engine.live == 1)
    thread.join()
    eventually(lambda: engine.live == 0)


def test_a_key_is_asked_for_before_anything_else(
    http: httpx.Client, admission: FakeAdmission
) -> None:
    admission.locked = True
    for method, path in (
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1/input_items"),
    ):
        answer = http.request(method, path, content=b"{")
        assert answer.status_code == 401, path
        assert answer.json()["error"]["type"] == "authentication_error"
