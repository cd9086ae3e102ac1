"""Each mistake is a 400 in OpenAI's shape that names the field as this API's clients know it."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from mlxserve_hookspecs import Finish, RequestError, Usage
from mlxserve_plugins.responses.bodies import ResponsesBody
from mlxserve_plugins.responses.fields import RESPONSES
from mlxserve_plugins.surface.fields import as_markdown

from ..openai.fake_engine import FakeAdmission, FakeEngine
from .conftest import Running

Json = dict[str, Any]


def item(**fields: Any) -> Json:
    return {"input": [{"role": "user", "content": "Hi"}, fields]}


def tool(**fields: Any) -> Json:
    return {"input": "Hi", "tools": [fields]}


def choice(wanted: Any) -> Json:
    return {"input": "Hi", "tools": [{"type": "function", "name": "a"}], "tool_choice": wanted}


def form(**fields: Any) -> Json:
    return {"input": "Hi", "text": {"format": fields}}


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
FREE = {"type": "custom", "name": "a"}
MISTAKES: dict[str, tuple[Json, str]] = {
    "no input": ({}, "input"),
    "no items": ({"input": []}, "input"),
    "input is a number": ({"input": 3}, "input"),
    "item is a number": ({"input": [3]}, "input[0]"),
    "item says nothing": ({"input": [{}]}, "input[0].id"),
    "item is unknown": (item(type="computer_call"), "input[1].type"),
    "item's type is a list": (item(type=[]), "input[1].type"),
    "role is unknown": (item(role="king", content="Hi"), "input[1].role"),
    "content is missing": (item(role="user"), "input[1].content"),
    "content is a number": (item(role="user", content=3), "input[1].content"),
    "image": (item(role="user", content=[IMAGE]), "input[1].content[0].type"),
    "image as output": (
        item(type="function_call_output", call_id="a", output=[IMAGE]),
        "input[1].output[0].type",
    ),
    "part without text": (
        item(role="user", content=[{"type": "text"}]), "input[1].content[0].text",
    ),
    "part without type": (item(role="user", content=[{"text": "a"}]), "input[1].content[0].type"),
    "call without name": (
        item(type="function_call", call_id="a", arguments="{}"),
        "input[1].name",
    ),
    "arguments are an object": (
        item(type="function_call", call_id="a", name="b", arguments={}),
        "input[1].arguments",
    ),
    "input of a function's call": (
        item(type="custom_tool_call", call_id="a", name="b", arguments="{}"),
        "input[1].input",
    ),
    "tool is hosted": (tool(type="file_search", vector_store_ids=["a"]), "tools[0].type"),
    "tool is a computer": (tool(type="computer_use_preview"), "tools[0].type"),
    "tool's type is an object": (tool(type={}), "tools[0].type"),
    "tool has no type": (tool(name="a"), "tools[0].type"),
    "tool has no name": (tool(type="function"), "tools[0].name"),
    "tool's name is empty": (tool(type="function", name=""), "tools[0].name"),
    "parameters are a list": (
        tool(type="function", name="a", parameters=[]), "tools[0].parameters",
    ),
    "description is a number": (
        tool(type="function", name="a", description=1), "tools[0].description",
    ),
    "format is a number": (tool(type="custom", name="a", format=1), "tools[0].format"),
    "grammar without syntax": (
        tool(type="custom", name="a", format={"type": "grammar"}), "tools[0].format",
    ),
    "namespace without tools": (tool(type="namespace", name="a"), "tools[0].tools"),
    "namespace in a namespace": (
        tool(type="namespace", name="a", tools=[{"type": "namespace", "name": "b", "tools": []}]),
        "tools[0].tools[0].type",
    ),
    "two tools of one name": (
        {"input": "Hi", "tools": [FREE, {"type": "function", "name": "a"}]}, "tools[1].name",
    ),
    "choice is a word": (choice("always"), "tool_choice"),
    "choice is a number": (choice(3), "tool_choice"),
    "choice is unknown": (choice({"type": "function", "name": "b"}), "tool_choice"),
    "choice is of another kind": (choice({"type": "custom", "name": "a"}), "tool_choice"),
    "choice is hosted": (choice({"type": "web_search"}), "tool_choice.type"),
    "choice has no name": (choice({"type": "function"}), "tool_choice.name"),
    "allowed without tools": (
        choice({"type": "allowed_tools", "mode": "auto"}), "tool_choice.tools",
    ),
    "allowed without mode": (choice({"type": "allowed_tools", "tools": []}), "tool_choice.mode"),
    "nothing allowed and required": (
        choice({"type": "allowed_tools", "tools": [], "mode": "required"}), "tool_choice",
    ),
    "allowed is unknown": (
        choice({"type": "allowed_tools", "tools": [FREE], "mode": "auto"}), "tool_choice.tools[0]",
    ),
    "forced without tools": ({"input": "Hi", "tool_choice": "required"}, "tool_choice"),
    "forced with a form": (
        choice("required") | {"text": {"format": {"type": "json_object"}}}, "tool_choice",
    ),
    "form is unknown": (form(type="yaml"), "text.format.type"),
    "form has no type": (form(), "text.format.type"),
    "form's type is a list": (form(type=[]), "text.format.type"),
    "effort is unknown": ({"input": "Hi", "reasoning": {"effort": "some"}}, "reasoning.effort"),
    "summary is unknown": ({"input": "Hi", "reasoning": {"summary": "x"}}, "reasoning.summary"),
    "too hot": ({"input": "Hi", "temperature": 101}, "temperature"),
    "no tokens": ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    "too long": ({"input": "a" * 3000}, "input"),
    "more least than most": (
        {"input": "Hi", "max_output_tokens": 2, "min_tokens": 3}, "min_tokens",
    ),
    "other surface's": ({"messages": [{"role": "user", "content": "Hi"}]}, "messages"),
    "several replies": ({"input": "Hi", "n": 2}, "n"),
    "token unknown": ({"input": "Hi", "logit_bias": {"999": 1}}, "logit_bias"),
    "background": ({"input": "Hi", "background": True}, "background"),
    "conversation": ({"input": "Hi", "conversation": "conv_1"}, "conversation"),
    "prompt template": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "metadata is nested": ({"input": "Hi", "metadata": {"a": {}}}, "metadata[...]"),
    "template refuses": ({"input": "raise"}, "input"),
    "both names": ({"input": "Hi", "previous_response_id": 3}, "previous_response_id"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "param"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_mistake_is_named(http: httpx.Client, body: Json, param: str, stream: bool) -> None:
    answer = http.post("/v1/responses", json=body | {"stream": stream})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_another_model_is_not_found(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", "model": "gpt-5"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"input":1,"input":2}'])
def test_what_is_no_object_is_refused(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/v1/responses", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_a_413(http: httpx.Client) -> None:
    assert http.post("/v1/responses", json={"input": "a" * 200_000}).status_code == 413


def test_a_demand_that_the_engine_refuses_is_named_in_this_apis_words(
    http: httpx.Client, engine: FakeEngine
) -> None:
    where = "response_format.json_schema.schema"
    engine.refusal = RequestError(status=400, message=f"`{where}` must be an object", param=where)
    error = http.post("/v1/responses", json=form(type="json_schema", name="a")).json()["error"]
    assert error["param"] == "text.format.schema"
    assert error["message"] == "`text.format.schema` must be an object"


def test_before_the_model_is_loaded_it_is_a_503(http: httpx.Client, engine: FakeEngine) -> None:
    engine.loaded = False
    answer = http.post("/v1/responses", json={"input": "Hi"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


def test_a_refusal_of_admission_is_passed_on(http: httpx.Client, admission: FakeAdmission) -> None:
    admission.refusal = RequestError(status=429, message="slowly", retry_after=3)
    assert http.post("/v1/responses", json={"input": "Hi"}).status_code == 429


def test_a_reply_that_fails_whole_is_a_status(http: httpx.Client, engine: FakeEngine) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=0)
    engine.failure, engine.fail_after = Finish(reason="timeout", usage=usage), 1
    assert http.post("/v1/responses", json={"input": "Hi"}).status_code == 504


def test_a_bug_is_a_500_without_its_words(http: httpx.Client, engine: FakeEngine) -> None:
    engine.bug, engine.fail_after = ValueError("secret"), 1
    answer = http.post("/v1/responses", json={"input": "Hi"})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_fields_that_nobody_knows_are_served_and_named_once(
    http: httpx.Client, running: Running
) -> None:
    body = {"input": "Hi", "wishes": 3, "tools": [{"type": "image_generation"}]}
    with capture_logs() as logs:
        for _ in range(2):
            assert http.post("/v1/responses", json=body).status_code == 200
    named = [(line["field"], line.get("detail")) for line in logs]
    assert named == [("wishes", "unknown"), ("tools", "image_generation")]
    counted = [("responses", "unknown", "ignored"), ("responses", "tools", "ignored")]
    assert running.stage.adjusted == counted * 2


TOLD_BACK: dict[str, Any] = {
    "metadata": {"a": "b"}, "truncation": "auto", "user": "u", "safety_identifier": "s",
    "prompt_cache_key": "k", "max_tool_calls": 3,
}  # fmt: skip
HARMLESS: dict[str, Any] = {
    "service_tier": "flex", "prompt_cache_retention": "24h", "client_metadata": {"a": 1},
    "prompt_cache_options": {"mode": "implicit"}, "text": {"verbosity": "low"},
    "stream_options": {"include_obfuscation": False}, "moderation": {},
}  # fmt: skip
NOTHING: dict[str, Any] = {
    "conversation": None, "prompt": None, "background": False, "context_management": [],
    "include": ["reasoning.encrypted_content"], "messages": [], "n": 1, "top_k": -1,
}  # fmt: skip


def test_fields_that_change_no_reply_are_served(
    http: httpx.Client, engine: FakeEngine, running: Running
) -> None:
    plain = http.post("/v1/responses", json={"input": "Hi"}).json()
    body = {"input": "Hi"} | TOLD_BACK | HARMLESS | NOTHING
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"] == plain["usage"]
    assert {name: answer.json()[name] for name in TOLD_BACK} == TOLD_BACK
    ignored = {field for _, field, how in running.stage.adjusted if how == "ignored"}
    assert ignored == HARMLESS.keys() - {"text"} | {"text.verbosity"}


def test_names_of_elsewhere_are_read(http: httpx.Client, engine: FakeEngine) -> None:
    schema = {"name": "n", "schema": {"type": "object"}}
    body = {
        "input": "Hi",
        "max_tokens": 3,
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    answer = http.post("/v1/responses", json=body).json()
    assert answer["max_output_tokens"] == 3
    assert answer["reasoning"]["effort"] == "high"
    assert engine.seen[-1].constraint == {"type": "json_schema", "json_schema": schema}


def test_more_tokens_than_there_is_room_for_are_cut_and_noted(
    http: httpx.Client, engine: FakeEngine, running: Running
) -> None:
    assert http.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 10**6}).json()
    assert engine.seen[-1].stop.max_tokens == 4000 - len("user:Hi\nassistant:")
    assert ("responses", "max_output_tokens", "clamped") in running.stage.adjusted


def test_the_table_has_each_field_of_the_struct_and_no_more() -> None:
    own = {name for name in RESPONSES.named("honoured") if not RESPONSES.fields[name].reads_as}
    assert own == set(ResponsesBody.__struct_fields__)


def test_the_documentation_has_the_table_as_it_is() -> None:
    document = Path(__file__).parents[3] / "docs" / "fields.md"
    assert as_markdown(RESPONSES) in document.read_text("utf-8")
