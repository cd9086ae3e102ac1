import json
import threading
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from attrs import evolve
from openai import OpenAI

from mlxserve_hookspecs import Finish, RequestError, Usage

from .fake_engine import FakeAdmission, FakeEngine

HI = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
CHAT = "/v1/chat/completions"
Eventually = Callable[[Callable[[], object]], None]


def test_a_stream_is_server_sent_events_that_nobody_buffers(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=HI) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        events = answer.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_long_prefill_tells_how_far_it_is(http: httpx.Client, engine: FakeEngine) -> None:
    engine.prefill = (5, 10)
    text = http.post(CHAT, json=HI).text
    assert text.startswith(": keepalive prefilled 5/18\n\n: keepalive prefilled 10/18\n\ndata: ")
    assert text.endswith("data: [DONE]\n\n")


def test_silence_is_filled_with_comments(http: httpx.Client, engine: FakeEngine) -> None:
    engine.prefill, engine.stall_after = (5,), 3
    with http.stream("POST", CHAT, json=HI) as answer:
        lines = [line for line in take(answer.iter_lines(), 30) if line]
    comments = [line for line in lines if line.startswith(":")]
    assert comments[0] == ": keepalive prefilled 5/18"
    assert comments[1:]
    assert set(comments[1:]) == {": keepalive"}


def test_openais_client_reads_over_comments(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.prefill, engine.pause = (5, 10), 0.12
    engine.replies = ("Hi",)
    stream = sdk.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hi"


@pytest.mark.parametrize("stalled", [0, 3], ids=["before the first token", "in mid-reply"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_reader_that_leaves_a_stream_cancels_the_request(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually, path: str, stalled: int
) -> None:
    engine.stall_after = stalled
    body = HI if path == CHAT else {"prompt": ["a", "b"], "stream": True}
    with http.stream("POST", path, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert engine.live == len(engine.seen)
    eventually(lambda: engine.live == 0)
    assert sorted(engine.closed_early) == sorted(request.id for request in engine.seen)


def test_a_reader_that_leaves_while_chunks_flow_cancels_the_request(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually
) -> None:
    engine.replies, engine.pause = ("x" * 200,), 0.01
    with http.stream("POST", CHAT, json=HI) as answer:
        next(answer.iter_lines())
    eventually(lambda: engine.live == 0)
    assert engine.closed_early == [engine.seen[0].id]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_leaves_a_whole_reply_cancels_the_request(
    http: httpx.Client, engine: FakeEngine, eventually: Eventually, path: str
) -> None:
    engine.stall_after = 3
    body = {**HI, "stream": False} if path == CHAT else {"prompt": ["a", "b"]}
    with pytest.raises(httpx.ReadTimeout):
        http.post(path, json=body, timeout=0.3)
    eventually(lambda: engine.live == 0)
    assert sorted(engine.closed_early) == sorted(request.id for request in engine.seen)


def test_a_cancelled_stream_leaves_the_others_alone(
    http: httpx.Client, sdk: OpenAI, engine: FakeEngine
) -> None:
    engine.pause = 0.01
    found: list[str | None] = []

    def ask() -> None:
        reply = sdk.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "Hi"}]
        )
        found.append(reply.choices[0].message.content)

    other = threading.Thread(target=ask)
    other.start()
    with http.stream("POST", CHAT, json=HI) as answer:
        next(answer.iter_lines())
    other.join()
    assert found == ["Hello, world"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("by", ["engine", "admission"])
def test_a_refusal_is_a_status_even_for_a_stream(
    http: httpx.Client, engine: FakeEngine, admission: FakeAdmission, stream: bool, by: str
) -> None:
    refusal = RequestError(status=429, message="full", code="queue_full", retry_after=2.2)
    (engine if by == "engine" else admission).refusal = refusal
    answer = http.post(CHAT, json={**HI, "stream": stream})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json() == {
        "error": {
            "message": "full",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


TIMEOUT = Finish(
    reason="timeout",
    usage=Usage(prompt_tokens=1, completion_tokens=3),
    error=RequestError(status=504, message="out of time", code="timeout"),
)
FAILURE = Finish(
    reason="error",
    usage=Usage(prompt_tokens=1, completion_tokens=3),
    error=RequestError(status=503, message="out of memory", code="out_of_memory"),
)


def test_a_reply_that_runs_out_of_time_keeps_its_text(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.failure, engine.fail_after = TIMEOUT, 3
    answer = http.post(CHAT, json={**HI, "stream": False})
    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", "length")
    assert answer.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"], ids=["chat", "text"])
def test_a_stream_that_runs_out_of_time_ends_as_others_do(
    http: httpx.Client, engine: FakeEngine, path: str
) -> None:
    engine.failure, engine.fail_after = TIMEOUT, 3
    body = {"prompt": "a"} if path != CHAT else HI
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    events = http.post(path, json=asked).text.split("\n\n")
    assert '"finish_reason":"length"' in events[-4]
    assert '"completion_tokens":3' in events[-3]
    assert events[-2:] == ["data: [DONE]", ""]


def test_a_reply_that_runs_out_of_time_before_it_began_is_a_status(
    http: httpx.Client, engine: FakeEngine
) -> None:
    nothing = Usage(prompt_tokens=1, completion_tokens=0)
    engine.failure = evolve(TIMEOUT, usage=nothing)
    assert http.post(CHAT, json={**HI, "stream": False}).status_code == 504


def test_usage_comes_with_every_chunk_where_it_is_asked_for(http: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = http.post(CHAT, json={**HI, "stream_options": options}).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[1], counts[-1]) == (0, 1, len("Hello, world"))
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {len("user:Hi\nassistant:")}


def test_a_failure_in_a_whole_reply_is_a_status(http: httpx.Client, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    answer = http.post(CHAT, json={**HI, "stream": False})
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.json()["error"]["code"] == "out_of_memory"


def test_a_failure_in_a_stream_is_an_event_and_its_end(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    events = http.post(CHAT, json=HI).text.split("\n\n")
    assert '"content":"l"' in events[-3]
    assert events[-2].startswith('data: {"error":{"message":"out of memory"')
    assert events[-1] == ""


def test_openais_client_raises_a_failure_in_a_stream(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = FAILURE, 3
    stream = sdk.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    chunks = iter(stream)
    said = [next(chunks).choices[0].delta.content for _ in range(4)]
    assert said == ["", "H", "e", "l"]
    with pytest.raises(openai.APIError, match="out of memory"):
        next(chunks)


@pytest.mark.parametrize("after", [0, 3], ids=["at once", "in mid-reply"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_bug_says_nothing_of_the_servers_insides(
    http: httpx.Client, engine: FakeEngine, stream: bool, after: int
) -> None:
    engine.bug, engine.fail_after = ZeroDivisionError("secret inside"), after
    answer = http.post(CHAT, json={**HI, "stream": stream})
    assert answer.status_code == (200 if stream and after else 500)
    assert "the server failed to answer" in answer.text
    assert "secret" not in answer.text
    assert "[DONE]" not in answer.text


def take(lines: Iterator[str], count: int) -> list[str]:
    return [next(lines) for _ in range(count)]
