from typing import Any

import httpx
import msgspec
import pytest
from openai import OpenAI

from .fake_engine import FakeEngine


def test_a_text_is_shaped_like_openais(sdk: OpenAI) -> None:
    reply = sdk.completions.create(model="fake", prompt="Say")
    assert reply.id.startswith("cmpl-")
    assert reply.object == "text_completion"
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("Hello, world", "stop")
    assert reply.choices[0].logprobs is None
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        pytest.param("ab", [b"ab"], id="a text"),
        pytest.param(["ab", "c"], [b"ab", b"c"], id="texts"),
        pytest.param([97, 98], [b"ab"], id="token ids"),
        pytest.param([[97, 98], [99]], [b"ab", b"c"], id="lists of token ids"),
    ],
)
def test_prompts_in_every_form(
    sdk: OpenAI, engine: FakeEngine, prompt: Any, asked: list[bytes]
) -> None:
    reply = sdk.completions.create(model="fake", prompt=prompt, n=2)
    assert [bytes(request.prompt) for request in engine.seen] == asked
    assert [choice.index for choice in reply.choices] == list(range(2 * len(asked)))
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == sum(len(text) for text in asked)


def test_many_prompts_run_a_few_at_a_time_and_come_back_in_order(
    sdk: OpenAI, engine: FakeEngine
) -> None:
    prompts = [f"p{at}" for at in range(40)]
    reply = sdk.completions.create(model="fake", prompt=prompts, echo=True, max_tokens=1)
    assert [choice.text for choice in reply.choices] == [f"{prompt}H" for prompt in prompts]
    assert 1 < engine.most_live <= 16


def test_long_prompts_are_tokenised_in_order(sdk: OpenAI, engine: FakeEngine) -> None:
    prompts = [f"{at:03}" + "x" * 190 for at in range(30)]
    sdk.completions.create(model="fake", prompt=prompts, max_tokens=1)
    assert [bytes(request.prompt).decode() for request in engine.seen] == prompts


def test_streamed_prompts_are_told_apart_by_index(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("one", "two")
    texts = [""] * 4
    for chunk in sdk.completions.create(model="fake", prompt=["a", "b"], n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == ["one", "two", "one", "two"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_echo_puts_the_prompt_first(http: httpx.Client, stream: bool) -> None:
    text, _ = joined(http, {"prompt": "Oh! ", "echo": True, "stream": stream})
    assert text == "Oh! Hello, world"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("reply", [0, 1], ids=["nothing generated", "one token generated"])
def test_echoed_logprobs_have_an_entry_for_each_token_of_prompt_and_reply(
    http: httpx.Client, reply: int, stream: bool
) -> None:
    body = {"prompt": "hé!", "echo": True, "logprobs": 2, "max_tokens": reply, "stream": stream}
    text, found = joined(http, body)
    assert text == "hé!" + "H" * reply
    assert found["tokens"] == ["h", "bytes:\\xc3", "bytes:\\xa9", "!", "H"][: 4 + reply]
    assert found["token_logprobs"] == [None, -1.0, -1.0, -1.0, -1.0][: 4 + reply]
    assert found["text_offset"] == [0, 1, 1, 2, 3][: 4 + reply]
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][3] == {"!": -1.0, '"': -2.0}


def test_logprobs_zero_names_only_the_token_itself(sdk: OpenAI) -> None:
    reply = sdk.completions.create(model="fake", prompt="a", logprobs=0, max_tokens=1)
    found = reply.choices[0].logprobs
    assert found is not None
    assert found.top_logprobs == [{"H": -1.0}]


def test_best_of_keeps_the_likeliest_and_bills_all(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("bad", "good", "best")
    reply = sdk.completions.create(model="fake", prompt="a", n=2, best_of=3)
    assert [choice.text for choice in reply.choices] == ["best", "good"]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert all(choice.logprobs is None for choice in reply.choices)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len("badgoodbest")


def test_a_streams_usage_comes_at_the_end(sdk: OpenAI) -> None:
    *chunks, last = sdk.completions.create(
        model="fake", prompt="a", stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 1 + len("Hello, world")
    assert all(chunk.usage is None for chunk in chunks)


def joined(http: httpx.Client, body: dict[str, Any]) -> tuple[str, dict[str, list[Any]]]:
    """Return the text and the log-probabilities of a whole or streamed reply."""
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        choice = answer.json()["choices"][0]
        return choice["text"], choice["logprobs"] or {}
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    choices = [msgspec.json.decode(one)["choices"][0] for one in events]
    lists: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            lists.setdefault(name, []).extend(values)
    return "".join(choice["text"] for choice in choices), lists
