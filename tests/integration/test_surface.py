"""What a request may ask for is cut to what there is, and what came of it is kept; live."""

from typing import Any

from openai import OpenAI

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
