from typing import Any

import pytest
from openai import OpenAI

from mlxserve_hookspecs import Markup

from .fake_engine import FakeEngine

HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_a_reply_is_shaped_like_openais(sdk: OpenAI) -> None:
    reply = sdk.chat.completions.create(model="fake", messages=HI)
    assert reply.id.startswith("chatcmpl-")
    assert reply.object == "chat.completion"
    assert reply.model == "org/fake-model"
    assert reply.system_fingerprint
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == "Hello, world"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].logprobs is None


def test_usage_counts_tokens_cached_tokens_and_drafts(sdk: OpenAI) -> None:
    usage = sdk.chat.completions.create(model="fake", messages=HI).usage
    assert usage is not None
    assert usage.prompt_tokens == len("user:Hi\nassistant:")
    assert usage.completion_tokens == len("Hello, world")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 4
    details = usage.completion_tokens_details
    assert details is not None
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (2, 1)
    assert details.reasoning_tokens == 0


def test_a_stream_joins_to_the_whole_reply(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("Grüße, 🦊!",)
    chunks = list(sdk.chat.completions.create(model="fake", messages=HI, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grüße, 🦊!"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_a_streams_usage_comes_in_a_chunk_of_its_own_at_the_end(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="fake", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len("Hello, world")
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_choices_share_one_request_and_come_back_in_order(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("one", "two!", "three")
    reply = sdk.chat.completions.create(model="fake", messages=HI, n=3)
    assert [choice.message.content for choice in reply.choices] == ["one", "two!", "three"]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [request.choices for request in engine.seen] == [3]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len("user:Hi\nassistant:")
    assert reply.usage.completion_tokens == len("onetwo!three")


def test_streamed_choices_are_told_apart_by_index(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("one", "two!", "three")
    texts = ["", "", ""]
    ends: list[int] = []
    for chunk in sdk.chat.completions.create(model="fake", messages=HI, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert texts == ["one", "two!", "three"]
    assert ends == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("stop", [",", [",", "world"]], ids=["one stop string", "several"])
def test_a_reply_ends_before_its_stop_string(
    sdk: OpenAI, engine: FakeEngine, stop: Any, stream: bool
) -> None:
    text, reason = say(sdk, stream, stop=stop)
    assert (text, reason) == ("Hello", "stop")
    assert engine.seen[0].stop.strings == ((stop,) if isinstance(stop, str) else tuple(stop))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_reply_of_max_tokens_says_length(sdk: OpenAI, stream: bool) -> None:
    assert say(sdk, stream, max_completion_tokens=5) == ("Hello", "length")


def test_logprobs_name_each_token_and_its_rivals(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("é",)
    reply = sdk.chat.completions.create(model="fake", messages=HI, logprobs=True, top_logprobs=2)
    found = reply.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [one.bytes for one in found.content] == [[0xC3], [0xA9]]
    assert found.content[0].token == "bytes:\\xc3"
    assert found.content[0].logprob == -1.0
    assert [top.logprob for top in found.content[0].top_logprobs] == [-1.0, -2.0]


def test_streamed_logprobs_are_the_whole_replys(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(model="fake", messages=HI, logprobs=True, stream=True)
    tokens = [
        one.token
        for chunk in stream
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content or []
    ]
    assert "".join(tokens) == "Hello, world"


def test_logprobs_without_top_have_no_rivals(sdk: OpenAI, engine: FakeEngine) -> None:
    reply = sdk.chat.completions.create(model="fake", messages=HI, logprobs=True)
    found = reply.choices[0].logprobs
    assert found is not None
    assert [one.top_logprobs for one in found.content or []] == [[]] * len("Hello, world")
    assert engine.seen[0].logprobs == 0


def test_every_parameter_reaches_the_engine(sdk: OpenAI, engine: FakeEngine) -> None:
    sdk.chat.completions.create(
        model="fake",
        messages=HI,
        temperature=0.5,
        top_p=0.9,
        seed=-7,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"65": -100},
        max_tokens=20,
        prediction={"type": "content", "content": "Hello"},
        extra_body={
            "top_k": 40,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "priority": -3,
            "cache_salt": "mine",
            "ignore_eos": True,
            "min_tokens": 2,
            "stop_token_ids": [10],
            "skip_special_tokens": False,
        },
    )
    (request,) = engine.seen
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, -7)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.05, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, -0.2)
    assert sampling.logit_bias == {65: -100.0}
    assert (request.stop.max_tokens, request.stop.min_tokens) == (20, 2)
    assert (request.stop.ignore_eos, request.stop.token_ids) == (True, frozenset({10}))
    assert (request.priority, request.cache_salt, request.tenant) == (-3, "mine", "somebody")
    assert bytes(request.prediction) == b"Hello"
    assert request.skip_special_tokens is False


def test_what_is_left_out_has_openais_defaults(sdk: OpenAI, engine: FakeEngine) -> None:
    sdk.chat.completions.create(model="fake", messages=HI)
    (request,) = engine.seen
    assert (request.sampling.temperature, request.sampling.top_p) == (1.0, 1.0)
    assert request.sampling.seed is None
    assert request.logprobs is None
    assert request.constraint is None
    assert request.stop.max_tokens == 256 - len(request.prompt)
    assert (request.request_timeout, request.first_token_timeout) == (120.0, 300.0)


def test_messages_reach_the_template_as_plain_text(sdk: OpenAI, engine: FakeEngine) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[Any] = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}],
        },
        {"role": "user", "content": "Go", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    sdk.chat.completions.create(model="fake", messages=messages)
    assert engine.text_codec.rendered[0]["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Go", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


def test_a_reply_can_be_sent_back_as_it_came(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(model="fake", messages=HI).choices[0].message
    again: list[Any] = [*HI, first.model_dump(), *HI]
    assert sdk.chat.completions.create(model="fake", messages=again).choices


TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}


def test_tools_and_template_options_reach_the_template(sdk: OpenAI, engine: FakeEngine) -> None:
    sdk.chat.completions.create(
        model="fake",
        messages=HI,
        tools=[TOOL],
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    rendered = engine.text_codec.rendered[0]
    assert rendered["tools"] == [TOOL]
    assert rendered["kwargs"] == {"enable_thinking": False}


def test_tool_choice_none_hides_the_tools(sdk: OpenAI, engine: FakeEngine) -> None:
    sdk.chat.completions.create(
        model="fake",
        messages=HI,
        tools=[TOOL],
        tool_choice="none",
    )
    assert engine.text_codec.rendered[0]["tools"] is None


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        pytest.param({"response_format": {"type": "text"}}, None, id="text is no demand"),
        pytest.param(
            {"response_format": {"type": "json_object"}}, {"type": "json_object"}, id="json"
        ),
        pytest.param(
            {"tools": [TOOL], "tool_choice": "required"},
            {"type": "tool_choice", "tool_choice": "required", "tools": [TOOL]},
            id="a call is forced",
        ),
    ],
)
def test_demands_on_the_form_reach_the_engine(
    sdk: OpenAI, engine: FakeEngine, fields: dict[str, Any], constraint: Any
) -> None:
    sdk.chat.completions.create(model="fake", messages=HI, **fields)
    assert engine.seen[0].constraint == constraint


@pytest.mark.usefixtures("parsing")
def test_a_parser_splits_reasoning_from_content(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("<think>hm</think>Yes",)
    reply = sdk.chat.completions.create(model="fake", messages=HI)
    message = reply.choices[0].message
    assert message.content == "Yes"
    assert message.model_extra == {"reasoning_content": "hm"}
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == len("<think>hm</think>")


@pytest.mark.usefixtures("parsing")
def test_streamed_reasoning_is_told_apart_from_content(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("<think>hm</think>Yes",)
    chunks = list(sdk.chat.completions.create(model="fake", messages=HI, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thoughts = [(delta.model_extra or {}).get("reasoning_content", "") for delta in deltas]
    assert "".join(thoughts) == "hm"
    assert "".join(delta.content or "" for delta in deltas) == "Yes"


@pytest.mark.usefixtures("parsing")
def test_a_parser_finds_tool_calls(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("<call>look</call>",)
    choice = sdk.chat.completions.create(model="fake", messages=HI).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("look", "{}")


@pytest.mark.usefixtures("parsing")
def test_tool_calls_stream(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ("<call>look</call>",)
    chunks = list(sdk.chat.completions.create(model="fake", messages=HI, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "look")]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def say(sdk: OpenAI, stream: bool, **fields: Any) -> tuple[str, str | None]:
    if not stream:
        choice = sdk.chat.completions.create(model="fake", messages=HI, **fields).choices[0]
        return choice.message.content or "", choice.finish_reason
    chunks = list(sdk.chat.completions.create(model="fake", messages=HI, stream=True, **fields))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, chunks[-1].choices[0].finish_reason


@pytest.mark.parametrize(
    ("special", "said", "skips"),
    [(False, None, True), (True, None, False), (True, True, True), (False, False, False)],
)
def test_special_tokens_stay_in_the_text_where_markers_are_such(
    sdk: OpenAI, engine: FakeEngine, special: bool, said: bool | None, skips: bool
) -> None:
    engine.text_codec.markup = Markup(tool_start="[TOOL_CALLS]", special=special)
    sdk.chat.completions.create(model="fake", messages=HI, extra_body={"skip_special_tokens": said})
    assert engine.seen[0].skip_special_tokens is skips
