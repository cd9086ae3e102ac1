"""Responses through OpenAI's own client, with a model that knows a few words."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from ..plugins.responses.protocol import check, events_in
from ..plugins.responses.test_codex import recorded
from .conftest import Serve
from .live import LiveServer, until
from .test_sdk_structured import PERSON, PLACE, check_person, check_place

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
BLOCK = 16
"""The default of `--block-size`."""

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
NOTE: Any = {"type": "function", "name": "note", "description": "Notes it.", "parameters": PLACE}


def asked(**fields: Any) -> Any:
    return {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 24} | fields


class Answer(BaseModel):
    """What the demo is to fill in."""

    city: Literal["Rome", "Paris"]


@pytest.fixture(scope="module")
def noisy(tiny: LiveServer) -> Iterator[OpenAI]:
    """Return a client of a model that speaks noise, and fast."""
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def test_the_demo_answers(client: OpenAI) -> None:
    reply = client.responses.create(**asked())
    assert "Paris" in reply.output_text
    assert reply.status == "completed"
    assert reply.usage
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.usage.output_tokens_details.reasoning_tokens == 0


def test_a_stream_says_what_the_whole_reply_says(client: OpenAI, demo: LiveServer) -> None:
    whole = client.responses.create(**asked())
    with client.responses.stream(**asked()) as stream:
        said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        last = stream.get_final_response()
    assert said == whole.output_text == last.output_text
    assert last.usage
    assert whole.usage
    assert last.usage.output_tokens == whole.usage.output_tokens
    check(events_in(demo.post("/v1/responses", **asked(stream=True)).text))


def test_chat_and_responses_share_prompts_and_their_kv(client: OpenAI) -> None:
    words = "Name the seven days of the week, in their order, one to a line, and nothing else."
    reply = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": words}], temperature=0, max_tokens=8
    )
    same = client.responses.create(**asked(input=words, max_output_tokens=8))
    assert same.output_text == reply.choices[0].message.content
    assert same.usage
    assert reply.usage
    assert same.usage.input_tokens == reply.usage.prompt_tokens
    assert same.usage.input_tokens_details.cached_tokens > 0
    assert same.status == "incomplete"


def test_a_follow_up_knows_what_was_said_and_finds_it_in_the_cache(client: OpenAI) -> None:
    first = client.responses.create(**asked(instructions="You are a helpful guide to Europe."))
    second = client.responses.create(
        **asked(
            input="And of Italy?",
            previous_response_id=first.id,
            instructions="You are a helpful guide to Europe.",
        )
    )
    items: Any = [
        {"role": "user", "content": QUESTION},
        *first.output,
        {"role": "user", "content": "And of Italy?"},
    ]
    same = client.responses.create(
        **asked(input=items, instructions="You are a helpful guide to Europe.", store=False)
    )
    assert second.output_text == same.output_text
    assert first.usage
    assert second.usage
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 32


def test_a_kept_response_can_be_had_and_deleted(client: OpenAI) -> None:
    made = client.responses.create(**asked())
    assert client.responses.retrieve(made.id).output_text == made.output_text
    client.responses.delete(made.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)


def test_the_demo_fills_in_a_form(client: OpenAI) -> None:
    reply = client.responses.parse(
        model=MODEL, input="Where is the Eiffel Tower?", temperature=0, text_format=Answer
    )
    assert reply.output_parsed == Answer(city="Paris")


def test_a_stream_follows_a_schema(noisy: OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    with noisy.responses.stream(
        **asked(model="tiny", text={"format": form}, max_output_tokens=300)
    ) as stream:
        check_person(stream.get_final_response().output_text)


def test_a_schema_that_cannot_be_followed_is_named_in_this_apis_words(noisy: OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "odd", "schema": {"not": {"type": "string"}}}
    with pytest.raises(BadRequestError) as error:
        noisy.responses.create(**asked(model="tiny", text={"format": form}))
    assert str(error.value.param).startswith("text.format")


def test_a_loop_of_tools_goes_round(client: OpenAI) -> None:
    items: Any = [{"role": "user", "content": "Note down the city of the Colosseum."}]
    tools = [NOTE]
    reply = client.responses.create(
        **asked(input=items, tools=tools, tool_choice="required", max_output_tokens=100)
    )
    (call,) = reply.output
    assert call.type == "function_call"
    assert call.name == "note"
    check_place(call.arguments)
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "noted"}]
    for fields in ({"input": items}, {"input": items[-1:], "previous_response_id": reply.id}):
        last = client.responses.create(**asked(**fields, tools=tools, tool_choice="none"))
        assert last.output_text


def test_a_forced_custom_tool_gets_plain_text(client: OpenAI) -> None:
    choice: Any = {"type": "custom", "name": "note"}
    tools: Any = [{"type": "custom", "name": "note", "description": "Notes a word."}]
    reply = client.responses.create(
        **asked(input="Note the word: bread.", tools=tools, tool_choice=choice)
        | {"max_output_tokens": 100}
    )
    (call,) = reply.output
    assert call.type == "custom_tool_call"
    assert call.name == "note"
    assert call.input
    assert not call.input.startswith("{")


def test_a_stream_that_is_closed_frees_its_row_at_once(client: OpenAI, demo: LiveServer) -> None:
    demo.rest()
    stream = client.responses.create(
        **asked(max_output_tokens=2000, stream=True), extra_body={"ignore_eos": True}
    )
    for _ in range(6):
        next(stream)
    until(lambda: demo.metrics()["active_sequences"] == 1, 5)
    stream.close()
    assert demo.rest(timeout=5) < 2


@pytest.mark.parametrize("name", ["first", "second", "freeform"])
def test_codexs_requests_are_served_live_with_events_that_the_sdk_knows(
    serve: Serve, name: str
) -> None:
    server = serve("--served-model-name", "fake", "--max-prompt-tokens", "100000")
    body = recorded(name) | {"max_output_tokens": 8}
    answer = server.post("/v1/responses", **body)
    assert answer.status_code == 200, answer.text
    for event in events_in(answer.text):
        EVENT.validate_python(event)
    check(events_in(answer.text))


def test_codexs_second_turn_computes_only_what_is_new(serve: Serve) -> None:
    server = serve("--served-model-name", "fake", "--max-prompt-tokens", "100000")

    def usage(name: str) -> dict[str, Any]:
        body = recorded(name) | {"max_output_tokens": 1}
        found: dict[str, Any] = check(events_in(server.post("/v1/responses", **body).text))["usage"]
        return found

    first, second = usage("first"), usage("second")
    assert second["input_tokens"] > first["input_tokens"] > 500
    cached = second["input_tokens_details"]["cached_tokens"]
    assert cached > first["input_tokens"] - 2 * BLOCK
    again = usage("second")["input_tokens_details"]["cached_tokens"]
    assert again > second["input_tokens"] - 2 * BLOCK
