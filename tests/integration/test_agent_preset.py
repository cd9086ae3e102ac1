"""Agents get what the model can do, where nobody limits it."""

from .conftest import Serve

WINDOW = 8192


def test_a_reply_that_nobody_limits_may_fill_the_context(serve: Serve) -> None:
    server = serve("--preset", "agent", "--served-model-name", "tiny")
    turns = [{"role": "user", "content": "word " * 1600}]
    answer = server.post(
        "/v1/chat/completions", model="tiny", messages=turns, ignore_eos=True, temperature=0
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["total_tokens"] == WINDOW


def test_a_body_of_several_megabytes_is_read(serve: Serve) -> None:
    server = serve("--preset", "agent", "--served-model-name", "tiny")
    turns = [{"role": "user", "content": "word " * 800_000}]
    answer = server.post("/v1/messages", model="tiny", messages=turns, max_tokens=1)
    assert answer.status_code == 400
    assert "prompt is too long" in answer.json()["error"]["message"]
