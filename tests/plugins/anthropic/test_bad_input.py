import re
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from structlog.testing import capture_logs

from mlxserve_hookspecs import Limits

from ..openai.fake_engine import KEY, FakeAdmission, FakeEngine
from .conftest import MOST_BYTES, Running
from .events import PATH, TOOL, asking

COUNT = f"{PATH}/count_tokens"
CONTENT = "messages[0].content[0]"
USE: Any = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
}


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


FIELDS: list[Any] = [
    ("a number for text", {"model": 7}, "model"),
    ("no messages", {"messages": []}, "messages"),
    ("a message that is text", {"messages": ["Hi"]}, "messages[0]"),
    ("an unknown role", {"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ("a message without content", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("content of null", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ("a block without type", block(text="Hi"), f"{CONTENT}.type"),
    ("a block of an unknown kind", block(type="sound"), f"{CONTENT}.type"),
    ("a text block without text", block(type="text"), f"{CONTENT}.text"),
    ("an image", block(**IMAGE), CONTENT),
    ("an image in a result", block(type="tool_result", tool_use_id="t", content=[IMAGE]), CONTENT),
    (
        "a PDF",
        block(type="document", source={"type": "base64", "data": ""}),
        f"{CONTENT}.source.type",
    ),
    ("a call by a user", block(**USE), CONTENT),
    ("a result without call", block(type="tool_result"), f"{CONTENT}.tool_use_id"),
    ("a call at the end", {"messages": [{"role": "assistant", "content": [USE]}]}, "messages[0]"),
    ("system of an image", {"system": [IMAGE]}, "system[0].type"),
    ("a bool for an int", {"max_tokens": True}, "max_tokens"),
    ("negative max_tokens", {"max_tokens": -1}, "max_tokens"),
    ("a negative temperature", {"temperature": -0.1}, "temperature"),
    ("top_p above 1", {"top_p": 1.01}, "top_p"),
    ("a negative top_k", {"top_k": -1}, "top_k"),
    ("an empty stop sequence", {"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
    ("too many stop sequences", {"stop_sequences": ["a"] * 65}, "stop_sequences"),
    ("a tool of the server's", {"tools": [{"type": "web_search_20250305"}]}, "tools[0].type"),
    ("a tool without name", {"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ("an unknown choice", {"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice.type"),
    ("a forced call without tools", {"tool_choice": {"type": "any"}}, "tool_choice"),
    (
        "a forced call of an unknown tool",
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}},
        "tool_choice",
    ),
    (
        "a forced call and a format",
        {
            "tools": [TOOL],
            "tool_choice": {"type": "any"},
            "output_config": {"format": {"type": "json_schema", "schema": {}}},
        },
        "tool_choice",
    ),
    ("a format without schema", {"output_config": {"format": {"type": "json_schema"}}}, "schema"),
    ("an unknown effort", {"output_config": {"effort": "none"}}, "output_config.effort"),
    ("thinking of an unknown kind", {"thinking": {"type": "x"}}, "thinking.type"),
    ("thinking that is true", {"thinking": True}, "thinking"),
    ("a container", {"container": "c"}, "container"),
    ("an MCP server", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ("a long cache salt", {"cache_salt": "x" * 257}, "cache_salt"),
]


@pytest.mark.parametrize("fields", [f[1] for f in FIELDS], ids=[f[0] for f in FIELDS])
def test_a_bad_field_is_named(
    http: httpx.Client, fields: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    expected = next(f[2] for f in FIELDS if f[1] is fields)
    answer = http.post(PATH, json={**asking(), **fields})
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert expected in told["error"]["message"]


def test_an_image_is_refused_in_words(http: httpx.Client) -> None:
    answer = http.post(PATH, json={**asking(), **block(**IMAGE)})
    assert answer.json()["error"]["message"] == (
        f"`{CONTENT}` is an image: this server reads text only"
    )


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid"),
        (b"[" * 5000, "JSON|nested|wrong"),
        (b"7", "wrong"),
        (b'{"model":"fake","model":"fake","messages":[{"role":"user","content":""}]}', "twice"),
    ],
    ids=["nothing", "cut", "no text", "deep", "a number", "twice"],
)
def test_a_body_that_is_none_is_refused(
    http: httpx.Client, path: str, content: bytes, said: str
) -> None:
    answer = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert re.search(said, answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("POST", f"{PATH}/nothing", 404, "not_found_error"),
    ],
)
def test_paths_and_methods_that_are_not_there_are_told_in_anthropics_shape(
    http: httpx.Client, method: str, path: str, status: int, kind: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == kind


def test_other_paths_keep_their_shape(http: httpx.Client) -> None:
    for path in ("/v1/messagesandmore", "/v1/nothing"):
        assert http.get(path).json()["error"]["code"] == "not_found"


def test_a_body_that_is_too_large_is_told_in_anthropics_shape(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asking("x" * MOST_BYTES))
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"


def test_who_may_not_come_in_is_told_before_the_body_is_read(
    http: httpx.Client, admission: FakeAdmission
) -> None:
    admission.locked = True
    answer = http.post(PATH, content=b"{")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"
    headers = {"Authorization": f"Bearer {KEY}"}
    assert http.post(PATH, json=asking(), headers=headers).status_code == 200


def test_a_model_that_is_not_served_is_404(sdk: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match=r"claude-x.*not served here"):
        sdk.messages.create(**{**asking(), "model": "claude-x"})


def test_a_server_that_loads_is_overloaded(http: httpx.Client, engine: FakeEngine) -> None:
    engine.loaded = False
    answer = http.post(PATH, json=asking())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(max_prompt_tokens=100, max_model_len=None), 100),
        (Limits(max_prompt_tokens=1000, max_model_len=101), 100),
    ],
    ids=["the server's limit", "the model's"],
)
def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_know(
    http: httpx.Client, engine: FakeEngine, limits: Limits, most: int
) -> None:
    engine.limits = limits
    answer = http.post(PATH, json=asking("x" * 100))
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "type": "invalid_request_error",
        "message": f"prompt is too long: 116 tokens > {most} maximum",
    }
    assert http.post(COUNT, json=asking("x" * 100)).json() == {"input_tokens": 116}


def test_unknown_fields_are_served_named_once_and_counted_always(
    http: httpx.Client, running: Running
) -> None:
    body = asking([{"type": "text", "text": "Hi", "mood": 1}], metadata={"x": 1}, nonsense=True)
    with capture_logs() as logs:
        for path in (PATH, PATH, COUNT):
            assert http.post(path, json=body).status_code == 200
    told = [log["field"] for log in logs if log["event"] == "request field adjusted"]
    assert told.count("nonsense") == 1
    assert running.stage.adjusted.count(("messages", "unknown", "ignored")) == 3
    assert running.stage.adjusted.count(("messages", "metadata", "ignored")) == 3


def test_a_limit_above_the_servers_is_cut_to_it(
    http: httpx.Client, engine: FakeEngine, running: Running
) -> None:
    http.post(PATH, json=asking(max_tokens=32_000))
    assert [request.stop.max_tokens for request in engine.seen] == [1024]
    assert running.stage.adjusted == [("messages", "max_tokens", "clamped")]


def test_another_name_is_served_where_names_are_not_checked(
    http: httpx.Client, engine: FakeEngine, running: Running
) -> None:
    engine.any_name = True
    answer = http.post(PATH, json={**asking(), "model": "claude-x"})
    assert answer.json()["model"] == "org/fake-model"
    assert running.stage.adjusted == [("messages", "model", "read as another")]


def test_a_refusal_is_counted_by_its_field(http: httpx.Client, running: Running) -> None:
    http.post(PATH, json=asking(top_k=-1))
    assert running.stage.refused == [(400, "invalid_value", "top_k")]
