"""What a request may ask for is cut to what there is, and what came of it is kept; live."""

from typing import Any

import pytest
from openai import OpenAI

from mlxserve_plugins.tools.ignored import HEADER, NOTE

from .conftest import Serve
from .live import LiveServer

TEXT = "/v1/completions"
LONG: dict[str, Any] = {"prompt": "a", "ignore_eos": True, "max_tokens": 30_000}
KV_TOKENS = 512


def test_a_reply_that_meets_the_time_limit_keeps_its_text(serve: Serve) -> None:
    server = serve("--request-timeout-s", "1.5")
    server.post(TEXT, prompt="a", max_tokens=4)  # what is traced once is traced
    answer = server.post(TEXT, **LONG, n=8)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert all(choice["text"] for choice in body["choices"])
    assert 8 <= body["usage"]["completion_tokens"] < 8 * 30_000
    stream = server.post(TEXT, **LONG, n=8, stream=True, stream_options={"include_usage": True})
    events = stream.text.split("\n\n")
    assert stream.text.count('"finish_reason":"length"') == 8
    assert '"usage":{"prompt_tokens"' in events[-3]
    assert events[-2:] == ["data: [DONE]", ""]


def test_kv_bounds_a_reply_with_a_word_and_flags_change_the_rules(serve: Serve) -> None:
    words = ("--max-kv-size", str(KV_TOKENS), "--unknown-fields", "refuse")
    server = serve(*words, "--model-name-check", "off", "--default-max-tokens", "0")
    check_kv(server)
    check_names(server)


def check_kv(server: LiveServer) -> None:
    answer = server.post(TEXT, **LONG).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == KV_TOKENS
    assert "the server's KV" in server.said
    without = server.post(TEXT, prompt="a", ignore_eos=True).json()
    assert without["usage"]["total_tokens"] == KV_TOKENS
    too_long = server.post(TEXT, prompt=[5] * (KV_TOKENS + 1))
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (
        400,
        "context_length_exceeded",
    )


def check_names(server: LiveServer) -> None:
    refused = server.post(TEXT, prompt="a", max_tokens=1, tempreature=1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tempreature")
    with OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        (listed,) = client.models.list()
        found = client.completions.create(model="gpt-4", prompt="a", max_tokens=1)
    assert found.model == listed.id
    assert server.get("/version").json()["version"]
    assert server.get("/tokenizer_info").json()["chat_template"]


FUNCTION: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
OPENAI_TOOL = {"type": "function", "function": FUNCTION}
USER = {"role": "user", "content": "a"}
DEAF = {
    "/v1/chat/completions": {"messages": [USER], "tools": [OPENAI_TOOL], "max_tokens": 1},
    "/v1/messages": {
        "messages": [USER],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "max_tokens": 1,
    },
    "/v1/responses": {
        "input": "a",
        "tools": [{"type": "function", **FUNCTION}],
        "max_output_tokens": 1,
    },
}


@pytest.mark.parametrize(("path", "body"), DEAF.items(), ids=DEAF)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tools_that_the_template_has_no_place_for_are_told_of_in_a_header(
    tiny: LiveServer, path: str, body: dict[str, Any], stream: bool
) -> None:
    answer = tiny.post(path, **body, stream=stream)
    assert (answer.status_code, answer.headers.get(HEADER)) == (200, NOTE), answer.text
    without = {name: value for name, value in body.items() if name != "tools"}
    assert HEADER not in tiny.post(path, **without, stream=stream).headers


FORMS = {
    "a choice": ({"guided_choice": ["yes", "no"]}, ("yes", "no")),
    "a regular expression": ({"regex": "ab"}, ("ab",)),
    "a grammar": ({"grammar": 'root ::= "x" "y"'}, ("xy",)),
    "structured outputs": ({"structured_outputs": {"choice": ["maybe"]}}, ("maybe",)),
}


@pytest.mark.parametrize(("fields", "texts"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", TEXT], ids=["chat", "text"])
def test_forms_of_other_servers_hold_a_reply(
    tiny: LiveServer, path: str, fields: dict[str, Any], texts: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"messages": [USER]} if "chat" in path else {"prompt": "a"}
    answer = tiny.post(path, **asked, **fields, max_tokens=16, temperature=2)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"] if "chat" in path else choice["text"]) in texts
