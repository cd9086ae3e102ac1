"""Ollama's API, through its own client and below it."""

import json
import math
import time
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ollama import Client

from mlxserve_hookspecs import Finish, RequestError, Usage
from mlxserve_plugins.ollama.embedding import shortened
from mlxserve_plugins.ollama.fields import TABLES
from mlxserve_plugins.ollama.replies import _call
from mlxserve_plugins.surface.fields import as_markdown

from ..anthropic.conftest import Running
from ..openai.fake_engine import FakeEngine
from ..openai.test_fuzz import anything
from ..openai.test_wishes import Marked

HI: Any = [{"role": "user", "content": "Hi"}]
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
DOCUMENT = Path(__file__).parents[3] / "docs" / "fields.md"


def test_a_chat_is_a_message_and_its_figures(sdk: Client) -> None:
    reply = sdk.chat("fake:latest", HI)
    assert reply.message.content == "Hello, world"
    assert (reply.done, reply.done_reason, reply.model) == (True, "stop", "org/fake-model")
    assert (reply.prompt_eval_count, reply.eval_count) == (len("user:Hi\nassistant:"), 12)


def test_a_stream_is_lines_of_which_the_last_has_the_figures(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json={"model": "fake", "messages": HI})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "Hello, world"
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] == 12
    assert "eval_count" not in lines[0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_thinking_and_calls_stand_apart(sdk: Client, engine: FakeEngine, stream: bool) -> None:
    engine.replies = (f"<think>Well.</think>Look: {CALL}",)
    chat: Any = sdk.chat  # no overload takes a bool that is not known
    found = chat("fake", HI, tools=[TOOL], think=True, stream=stream)
    parts: list[Any] = list(found) if stream else [found]
    assert "".join(part.message.thinking or "" for part in parts) == "Well."
    assert "".join(part.message.content or "" for part in parts) == "Look:"
    (call,) = [call for part in parts for call in part.message.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
    assert engine.text_codec.rendered[0]["kwargs"] == {"enable_thinking": True}


def test_a_tool_loop_reaches_the_template(sdk: Client, engine: FakeEngine) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    turns = [*HI, {"role": "assistant", "content": "", "tool_calls": [call], "thinking": "Hm"}]
    turns += [{"role": "tool", "tool_name": "weather", "content": "sun"}]
    sdk.chat("fake", turns, tools=[TOOL])
    messages = engine.text_codec.rendered[0]["messages"]
    assert messages[1]["reasoning_content"] == "Hm"
    assert json.loads(messages[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
    assert (messages[2]["role"], messages[2]["name"]) == ("tool", "weather")


def test_texts_are_embedded_at_length_one_and_in_order(sdk: Client) -> None:
    found = sdk.embed("fake:latest", ["abc", "a"], dimensions=2)
    assert [list(vector) for vector in found.embeddings] == [
        pytest.approx([3 / math.hypot(3, 97), 97 / math.hypot(3, 97)], abs=1e-6),
        pytest.approx([1 / math.hypot(1, 97), 97 / math.hypot(1, 97)], abs=1e-6),
    ]
    assert (found.model, found.prompt_eval_count) == ("org/fake-model", 4)
    assert sdk.embed("fake", "").embeddings == []


def test_the_older_way_embeds_one_text_as_it_comes(sdk: Client) -> None:
    assert list(sdk.embeddings("fake", "abc").embedding) == [3.0, 97.0, 99.0, 1.0]
    assert list(sdk.embeddings("fake", "").embedding) == []


def test_a_text_that_is_too_long_is_cut_unless_it_must_not_be(
    sdk: Client, http: httpx.Client, engine: FakeEngine
) -> None:
    sdk.embed("fake", "b" * 3000)
    assert len(engine.seen[0].prompt) == 2000
    refused = http.post(
        "/api/embed", json={"model": "fake", "input": "b" * 3000, "truncate": False}
    )
    assert refused.status_code == 400
    assert "3000 tokens" in refused.json()["error"]
    assert shortened([1, 2, 3, 4], 3, keep_end=True) == [1, 2, 4]
    assert shortened([1, 2, 3, 4], 3, keep_end=False) == [1, 2, 3]


def test_options_reach_the_engine(sdk: Client, engine: FakeEngine, running: Running) -> None:
    options = {
        "num_predict": 5, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "seed": 3,
        "stop": ["x"], "repeat_penalty": 1.1, "num_ctx": 4096, "mirostat": 0,
    }  # fmt: skip
    reply = sdk.chat("fake", HI, options=options)
    assert (reply.message.content, reply.done_reason) == ("Hello", "length")
    (request,) = engine.seen
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.9)
    assert (sampling.min_p, sampling.seed, sampling.repetition_penalty) == (0.1, 3, 1.1)
    assert (request.stop.max_tokens, request.stop.strings) == (5, ("x",))
    assert ("ollama chat", "num_ctx", "ignored") in running.stage.adjusted


@pytest.mark.parametrize(
    ("form", "kind"),
    [("json", "json_object"), ({"type": "object"}, "json_schema")],
    ids=["json", "a schema"],
)
def test_a_format_is_demanded(sdk: Client, engine: FakeEngine, form: Any, kind: str) -> None:
    sdk.chat("fake", HI, format=form)
    assert engine.seen[0].constraint
    assert engine.seen[0].constraint["type"] == kind


def test_a_prompt_is_a_chat_unless_it_is_raw(sdk: Client, engine: FakeEngine) -> None:
    assert sdk.generate("fake", "Hi", system="Be").response == "Hello, world"
    sdk.generate("fake", "Hi", raw=True)
    prompts = [bytes(request.prompt) for request in engine.seen]
    assert prompts == [b"system:Be\nuser:Hi\nassistant:", b"Hi"]
    parts = list(sdk.generate("fake", "Hi", stream=True))
    assert "".join(part.response or "" for part in parts) == "Hello, world"


def test_who_asks_for_nothing_is_told_that_the_model_is_there(
    sdk: Client, engine: FakeEngine
) -> None:
    assert sdk.generate("fake").done_reason == "load"
    assert sdk.chat("fake", []).done_reason == "load"
    assert engine.seen == []


def test_the_model_is_listed_and_described(sdk: Client, http: httpx.Client) -> None:
    assert [model.model for model in sdk.list().models] == ["org/fake-model:latest"]
    assert [model.model for model in sdk.ps().models] == ["org/fake-model:latest"]
    shown = sdk.show("fake:latest")
    assert shown.modelinfo
    assert shown.modelinfo["mlx.context_length"] == 2048
    assert "completion" in (shown.capabilities or [])
    major, minor, _ = http.get("/api/version").json()["version"].split(".")
    assert (int(major), int(minor)) >= (0, 6)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/chat", {"model": "other", "messages": HI}, 404, "not served here"),
        ("/api/generate", {"model": "other"}, 404, "not served here"),
        ("/api/show", {"model": "other"}, 404, "not served here"),
        ("/api/chat", {"messages": HI}, 400, "`model`"),
        ("/api/chat", {"model": "fake", "messages": HI, "format": "xml"}, 400, "`format`"),
        (
            "/api/chat",
            {"model": "fake", "messages": [{"role": "user", "content": "", "images": ["AA=="]}]},
            400,
            "reads text only",
        ),
        ("/api/chat", {"model": "fake", "messages": HI, "options": {"mirostat": 1}}, 400,
         "`mirostat`"),
        ("/api/generate", {"model": "fake", "prompt": "a", "suffix": "b"}, 400, "`suffix`"),
        ("/api/pull", {"model": "fake"}, 404, "there is no /api/pull"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_word_for_it_all(
    http: httpx.Client, path: str, body: Any, status: int, said: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]


def test_a_failure_in_a_stream_is_its_last_line(
    http: httpx.Client, engine: FakeEngine, sdk: Client
) -> None:
    error = RequestError(status=503, message="out of room")
    usage = Usage(prompt_tokens=1, completion_tokens=3)
    engine.failure = Finish(reason="error", usage=usage, error=error)
    engine.fail_after = 3
    answer = http.post("/api/chat", json={"model": "fake", "messages": HI})
    assert json.loads(answer.text.splitlines()[-1]) == {"error": "out of room"}
    with pytest.raises(ollama.ResponseError, match="out of room"):
        list(sdk.chat("fake", HI, stream=True))


def test_a_refusal_before_the_first_token_is_a_status(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.refusal = RequestError(status=429, message="full", retry_after=2.0)
    answer = http.post("/api/chat", json={"model": "fake", "messages": HI})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json() == {"error": "full"}


def test_a_reader_that_leaves_cancels_the_request(http: httpx.Client, engine: FakeEngine) -> None:
    engine.stall_after = 3
    body = {"model": "fake", "messages": HI}
    with http.stream("POST", "/api/chat", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert engine.live == 1
    deadline = time.monotonic() + 5
    while engine.live:
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.005)
    assert engine.closed_early == [engine.seen[0].id]


names = sorted({name for table in TABLES for name in table.fields} | {"nonsense"})
bodies = st.builds(
    lambda first, second: {**first, **second},
    st.fixed_dictionaries(
        {"model": st.just("fake")},
        optional={
            "prompt": st.text(max_size=5),
            "messages": st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "tool", "king"])},
                    optional={"content": st.text(max_size=5), "tool_calls": anything},
                ),
                max_size=3,
            ),
            "options": st.dictionaries(st.sampled_from(names), anything, max_size=3),
            "stream": st.booleans(),
            "think": st.booleans() | st.sampled_from(["low", "x"]),
            "raw": st.booleans(),
        },
    ),
    st.just({}) | st.dictionaries(st.sampled_from(names), anything, max_size=2),
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies, path=st.sampled_from(["/api/chat", "/api/generate", "/api/show"]))
def test_no_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any], path: str) -> None:
    answer = http.post(path, content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 404), answer.text
    last = json.loads(answer.text.splitlines()[-1])
    if answer.status_code != 200:
        assert set(last) == {"error"}
    elif path != "/api/show":
        assert last["done"]


def test_the_documentation_has_the_tables() -> None:
    for table in TABLES:
        assert as_markdown(table) in DOCUMENT.read_text("utf-8")


@pytest.mark.parametrize(
    ("think", "budget"), [(None, None), (True, None), (False, 0), ("low", 1024)], ids=str
)
def test_think_bounds_the_thinking(
    sdk: Client, engine: FakeEngine, think: Any, budget: int | None
) -> None:
    engine.text_codec = Marked()
    sdk.chat("fake", HI, think=think, options={"stop": ["end"]})
    (request,) = engine.seen
    assert (request.constraint or {}).get("thinking_budget") == budget
    assert request.stop.skip == (("<think>", "</think>"),)


def test_a_call_that_was_cut_short_has_no_arguments() -> None:
    assert _call({"name": "f", "arguments": '{"a": '}).function.arguments == {}
    assert _call({"name": "f", "arguments": "[1]"}).function.arguments == {}
