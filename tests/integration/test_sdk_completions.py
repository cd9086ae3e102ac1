"""Plain completions through OpenAI's own client, and the two paths between text and tokens."""

from typing import Any

import pytest
from openai import OpenAI

from .live import LiveServer

MODEL = "smollm2-135m-instruct"
PROMPT = (
    "The three primary colours of paint are red, yellow and blue. Grass is green, snow is white,"
    " coal is black, and on a clear day the sky is"
)
TEXTS = [
    "plain",
    " two  spaces ",
    "héllo wörld",
    "日本語 🦊👩‍👩‍👧",
    "<|im_start|>user\n",
    "\n\t\x00",
]


def complete(client: OpenAI, prompt: Any, **more: Any) -> Any:
    asked: Any = {"model": MODEL, "temperature": 0, "max_tokens": 6} | more
    return client.completions.create(prompt=prompt, **asked)


def test_a_stream_of_a_completion_says_what_the_whole_says(client: OpenAI) -> None:
    whole = complete(client, PROMPT)
    options = {"include_usage": True}
    chunks = list(complete(client, PROMPT, stream=True, stream_options=options))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_token_ids_and_their_text_are_one_prompt(client: OpenAI, demo: LiveServer) -> None:
    tokens = demo.post("/tokenize", prompt=PROMPT).json()["tokens"]
    assert complete(client, tokens).choices[0].text == complete(client, PROMPT).choices[0].text


def test_several_prompts_are_answered_in_order(client: OpenAI) -> None:
    prompts = [PROMPT, "One, two, three,", "Water is"]
    reply = complete(client, prompts)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    alone = [complete(client, prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in reply.choices] == alone


@pytest.mark.parametrize("times", [1, 2], ids=["cold", "cached"])
def test_echo_scores_a_prompt_as_evaluation_harnesses_need_it(client: OpenAI, times: int) -> None:
    prompt = PROMPT.replace("day", "night")
    for _ in range(times - 1):
        complete(client, prompt)
    reply = complete(client, prompt, echo=True, max_tokens=0, logprobs=2)
    choice, found = reply.choices[0], reply.choices[0].logprobs
    assert choice.text == prompt == "".join(found.tokens)
    assert found.token_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(len(found.tokens))]
    assert reply.usage.completion_tokens == 0
    assert reply.usage.prompt_tokens == len(found.tokens)


def test_echoed_log_probabilities_are_those_of_generation(client: OpenAI) -> None:
    said = complete(client, PROMPT, max_tokens=5, logprobs=1).choices[0]
    scored = complete(client, PROMPT + said.text, echo=True, max_tokens=0, logprobs=1).choices[0]
    assert scored.logprobs.tokens[-5:] == said.logprobs.tokens
    tail = scored.logprobs.token_logprobs[-5:]
    assert tail == pytest.approx(said.logprobs.token_logprobs, abs=1e-3)


def test_a_prompt_then_itself_then_with_its_completion(client: OpenAI) -> None:
    # The third request ended mlx-lm's server: its prompt cache had no room to trim.
    cold = complete(client, PROMPT, max_tokens=16)
    warm = complete(client, PROMPT, max_tokens=16)
    assert warm.choices[0].text == cold.choices[0].text
    assert warm.usage.prompt_tokens_details.cached_tokens > 0
    longer = complete(client, PROMPT + cold.choices[0].text, max_tokens=4)
    assert longer.usage.prompt_tokens_details.cached_tokens > 16
    again = complete(client, PROMPT, max_tokens=16)
    assert again.choices[0].text == cold.choices[0].text


def test_a_salt_keeps_caches_apart(client: OpenAI) -> None:
    salted = {"cache_salt": "somebody else"}
    complete(client, PROMPT)
    first = complete(client, PROMPT, extra_body=salted)
    second = complete(client, PROMPT, extra_body=salted)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens > 0


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_survives_tokenize_and_detokenize(demo: LiveServer, text: str) -> None:
    found = demo.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert demo.post("/detokenize", tokens=found["tokens"]).json() == {"prompt": text}


def test_the_prompt_of_a_chat_is_what_tokenize_says(client: OpenAI, demo: LiveServer) -> None:
    messages: Any = [{"role": "user", "content": "Hello!"}]
    count = demo.post("/tokenize", messages=messages).json()["count"]
    reply = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    assert reply.usage
    assert reply.usage.prompt_tokens == count


def test_the_model_is_listed_and_found(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by
