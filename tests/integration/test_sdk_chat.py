"""Chat through OpenAI's own client, with a model that knows a few words."""

import asyncio
import math
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from .live import LiveServer, until

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
MODEL = "smollm2-135m-instruct"
TASKS = [
    f"{verb} {thing}."
    for verb in ("Describe", "Count", "Name", "Sell")
    for thing in ("a red fox", "three boats", "the moon", "some old bread in a long sentence")
]


def content(chunk: ChatCompletionChunk) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


async def streamed(client: AsyncOpenAI, task: str) -> str:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": task}],
        temperature=0,
        max_tokens=12,
        stream=True,
    )
    return "".join([content(chunk) async for chunk in stream])


def test_the_demo_knows_the_capital_of_france(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=24
    )
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.role == "assistant"
    assert reply.usage
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_says_what_the_whole_reply_says_and_ends_with_its_usage(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(map(content, chunks)) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert usage
    assert whole.usage
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_three_choices_share_one_prompt(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=QUESTION, n=3, temperature=1.5, seed=3, max_tokens=12
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1
    assert reply.usage
    alone = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=1
    )
    assert alone.usage
    assert reply.usage.prompt_tokens == alone.usage.prompt_tokens


def test_a_seed_repeats_what_it_gave(client: OpenAI) -> None:
    texts = [
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.2, seed=11, max_tokens=16
        )
        .choices[0]
        .message.content
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("stop", ["Fran", [" is Pa", "never"]], ids=["one", "across tokens"])
def test_a_reply_ends_before_its_stop_string(client: OpenAI, stop: Any) -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    full = client.chat.completions.create(**asked).choices[0].message.content or ""
    found = client.chat.completions.create(**asked, stop=stop).choices[0]
    first = stop if isinstance(stop, str) else stop[0]
    assert found.message.content == full.split(first)[0] != full
    assert found.finish_reason == "stop"
    parts = client.chat.completions.create(**asked, stop=stop, stream=True)
    assert "".join(map(content, parts)) == found.message.content


def test_log_probabilities_name_the_tokens_of_the_reply(client: OpenAI) -> None:
    choice = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    ).choices[0]
    assert choice.logprobs
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0  # greedy
        assert bytes(entry.bytes or ()).decode() == entry.token
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001


async def test_sixteen_streams_at_once_say_what_each_says_alone(demo: LiveServer) -> None:
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        together = await asyncio.gather(*(streamed(client, task) for task in TASKS))
        demo.post("/v1/cache/clear").raise_for_status()
        alone = [await streamed(client, task) for task in TASKS[::4]]
    assert len(set(together)) > 8
    assert alone == together[::4]
    demo.rest()


def test_a_stream_that_is_closed_frees_its_row_at_once(client: OpenAI, demo: LiveServer) -> None:
    demo.rest()
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in range(3):
        next(stream)
    until(lambda: demo.metrics()["active_sequences"] == 1, 5)
    stream.close()
    assert demo.rest(timeout=5) < 2
    assert demo.metrics()["mlxserve_request_failure_total{cancelled}"] >= 1


def test_a_second_turn_finds_the_first_in_the_cache(client: OpenAI, demo: LiveServer) -> None:
    long: Any = [
        {"role": "user", "content": "Repeat after me: one two three four five six seven eight."}
    ]
    asked: Any = {"model": MODEL, "temperature": 0, "max_tokens": 20}
    cold = client.chat.completions.create(messages=long, **asked)
    warm = client.chat.completions.create(messages=long, **asked)
    said = cold.choices[0].message.content
    assert warm.choices[0].message.content == said
    assert warm.usage
    assert warm.usage.prompt_tokens_details
    assert (warm.usage.prompt_tokens_details.cached_tokens or 0) > 0
    turn = [{"role": "assistant", "content": said}, {"role": "user", "content": "Again!"}]
    third = client.chat.completions.create(messages=long + turn, **asked)
    assert third.usage
    assert third.usage.prompt_tokens_details
    assert (third.usage.prompt_tokens_details.cached_tokens or 0) > 16
    assert demo.metrics()["cache_hit_rate"] > 0
