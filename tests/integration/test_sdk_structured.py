"""Replies in a form, and forced tool calls, through OpenAI's own client."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from .conftest import Serve
from .live import LiveServer

QUESTION: Any = [{"role": "user", "content": "Tell me about Ada, who is 36 and lives in Rome."}]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"enum": ["Rome", "Paris"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
FORM: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "description": "Notes it down.", "parameters": PLACE},
    }
    for name in ("note", "forget")
]


@pytest.fixture(scope="module")
def noisy(tiny: LiveServer) -> Iterator[OpenAI]:
    """Return a client of a model that speaks noise, and fast."""
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def asked(model: str = "tiny", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": QUESTION, "max_tokens": 300, "temperature": 0} | fields


def check_place(text: str) -> None:
    assert json.loads(text) in ({"city": "Rome"}, {"city": "Paris"})


def check_person(text: str | None) -> None:
    found = json.loads(text or "")
    assert list(found) == ["name", "age", "city"]
    assert len(found["name"]) <= 12
    assert 0 <= found["age"] <= 150
    assert found["city"] in {"Rome", "Paris"}


def test_the_demo_fills_in_a_form(client: OpenAI) -> None:
    fields = asked("smollm2-135m-instruct", response_format=FORM)
    choice = client.chat.completions.create(**fields).choices[0]
    assert json.loads(choice.message.content or "") == {"name": "Ada", "age": 36, "city": "Rome"}
    assert choice.finish_reason == "stop"


def test_the_demo_makes_the_call_that_is_forced(client: OpenAI) -> None:
    fields = asked("smollm2-135m-instruct", tools=TOOLS, tool_choice="required")
    choice = client.chat.completions.create(**fields).choices[0]
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    check_place(call.function.arguments)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_reply_is_what_the_schema_says_whole_and_streamed(
    noisy: OpenAI, temperature: float
) -> None:
    fields = asked(response_format=FORM, temperature=temperature, seed=5)
    whole = noisy.chat.completions.create(**fields).choices[0]
    check_person(whole.message.content)
    assert whole.finish_reason == "stop"
    chunks = list(noisy.chat.completions.create(**fields, stream=True))
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert told == whole.message.content


def test_any_object_is_json(noisy: OpenAI) -> None:
    fields = asked(response_format={"type": "json_object"}, max_tokens=16)
    choice = noisy.chat.completions.create(**fields).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert (choice.message.content or "").startswith("{")


def test_a_text_completion_may_have_a_form(noisy: OpenAI) -> None:
    reply = noisy.completions.create(
        model="tiny",
        prompt="Ada is 36. As JSON:",
        max_tokens=300,
        temperature=0,
        extra_body={"response_format": FORM},
    )
    check_person(reply.choices[0].text)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"note", "forget"}),
        ({"type": "function", "function": {"name": "forget"}}, {"forget"}),
    ],
    ids=["any", "by name"],
)
def test_a_forced_call_is_one_whole_and_streamed(
    noisy: OpenAI, choice: Any, names: set[str]
) -> None:
    fields = asked(tools=TOOLS, tool_choice=choice)
    whole = noisy.chat.completions.create(**fields).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", None)
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name in names
    assert call.id.startswith("call_")
    check_place(call.function.arguments)
    chunks = list(noisy.chat.completions.create(**fields, stream=True))
    streamed = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or []]
    assert {one.index for one in streamed} == {0}
    assert [one.function.name for one in streamed if one.function and one.function.name] == [
        call.function.name
    ]
    fragments = [one.function.arguments or "" for one in streamed if one.function]
    assert len(fragments) > 2
    assert "".join(fragments) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_constrained_and_free_replies_run_side_by_side(noisy: OpenAI) -> None:
    def said(fields: dict[str, Any]) -> str | None:
        content: str | None = noisy.chat.completions.create(**fields).choices[0].message.content
        return content

    free, form = asked(max_tokens=12), asked(response_format=FORM)
    alone = [said(free), said(form)]
    check_person(alone[1])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(said, [free, form] * 2))
    assert together == alone * 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_schema_that_cannot_be_followed_is_a_400_that_names_the_field(
    noisy: OpenAI, stream: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(BadRequestError) as found:
        noisy.chat.completions.create(**asked(response_format=form), stream=stream)
    assert found.value.param == "response_format"
    assert "not" in found.value.message


def test_tools_that_need_not_be_called_leave_text_as_it_is(tiny: LiveServer) -> None:
    fields = asked(max_tokens=8)
    plain = httpx.post(f"{tiny.url}/v1/chat/completions", json=fields, timeout=60).json()
    fields |= {"tools": TOOLS, "tool_choice": "auto"}
    offered = httpx.post(f"{tiny.url}/v1/chat/completions", json=fields, timeout=60).json()
    assert offered["choices"][0]["message"] == plain["choices"][0]["message"]


def test_without_the_plugin_a_form_is_refused(serve: Serve) -> None:
    server = serve("--plugins", "no:structured")
    fields = {"messages": QUESTION, "max_tokens": 4, "response_format": FORM}
    answer = server.post("/v1/chat/completions", **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"
