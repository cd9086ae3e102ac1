"""Messages through Anthropic's own client, with a model that knows a few words."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, beta_tool

from .live import LiveServer, until

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"temperature": 0}  # newer versions of the client have no parameter of that name
ASKED: Any = {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "extra_body": GREEDY}
TOOL: Any = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def sdk(demo: LiveServer) -> Iterator[Anthropic]:
    """Return Anthropic's own client of the demo; it does not try again by itself."""
    with Anthropic(base_url=demo.url, api_key="none", max_retries=0, timeout=120) as found:
        yield found


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_the_demo_knows_the_capital_of_france(sdk: Anthropic) -> None:
    message = sdk.messages.create(**ASKED)
    assert "Paris" in text_of(message)
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    assert message.usage.output_tokens > 2


def test_a_stream_says_what_the_whole_message_says(sdk: Anthropic) -> None:
    whole = sdk.messages.create(**ASKED)
    with sdk.messages.stream(**ASKED) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert text_of(message) == text_of(whole)
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_raw_events_come_in_their_order(sdk: Anthropic) -> None:
    kinds = [event.type for event in sdk.messages.create(**ASKED, stream=True)]
    first, second, *deltas, stop, delta, last = kinds
    assert (first, second) == ("message_start", "content_block_start")
    assert set(deltas) == {"content_block_delta"}
    assert (stop, delta, last) == ("content_block_stop", "message_delta", "message_stop")


def test_a_message_continues_what_the_assistant_began(sdk: Anthropic) -> None:
    begun: Any = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    message = sdk.messages.create(**{**ASKED, "messages": begun})
    assert text_of(message).lstrip().startswith("Paris")


def test_a_stop_sequence_is_named(sdk: Anthropic) -> None:
    message = sdk.messages.create(**ASKED, stop_sequences=["Paris", "never"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in text_of(message)


def test_a_count_is_what_a_message_costs_and_a_second_one_finds_it_cached(sdk: Anthropic) -> None:
    long: Any = [{"role": "user", "content": "Say: " + "one two three four five six " * 8}]
    count = sdk.messages.count_tokens(model=MODEL, messages=long).input_tokens
    for _ in range(2):
        usage = sdk.messages.create(**{**ASKED, "messages": long}).usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == count
    assert (usage.cache_read_input_tokens or 0) >= 16


def test_billing_lines_do_not_part_two_sessions(sdk: Anthropic) -> None:
    system = "You answer in one word, and never with more than that. " * 4
    usages = [
        sdk.messages.create(
            **ASKED,
            system=[
                {"type": "text", "text": f"x-anthropic-billing-header: cc_version=1.{n};"},
                {"type": "text", "text": system},
            ],
        ).usage
        for n in range(2)
    ]
    assert (usages[1].cache_read_input_tokens or 0) > 16
    assert usages[1].input_tokens <= 16


def test_a_tools_loop_ends_with_words(sdk: Anthropic) -> None:
    turns: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": MODEL, "max_tokens": 80, "tools": [TOOL], "extra_body": GREEDY}
    with sdk.messages.stream(
        **asked, messages=turns, tool_choice={"type": "tool", "name": "weather"}
    ) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert call.type == "tool_use"
    assert isinstance(call.input["city"], str)
    turns += [
        {"role": "assistant", "content": message.content},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": call.id,
                    "content": [{"type": "text", "text": "Sunny, 20 degrees."}],
                }
            ],
        },
    ]
    last = sdk.messages.create(**asked, messages=turns, tool_choice={"type": "none"})
    assert text_of(last)
    assert last.stop_reason in ("end_turn", "max_tokens")


def test_the_clients_own_tool_runner_runs(sdk: Anthropic) -> None:
    @beta_tool
    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"Sunny in {city}"

    runner = sdk.beta.messages.tool_runner(
        model=MODEL, max_tokens=40, messages=QUESTION, tools=[weather], extra_body=GREEDY
    )
    assert "Paris" in text_of(runner.until_done())


def test_a_schema_is_followed(sdk: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    message = sdk.messages.create(
        **{**ASKED, "max_tokens": 60},
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert text_of(message).replace(" ", "").replace("\n", "") in (
        '{"city":"Paris"}',
        '{"city":"Rome"}',
    )


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            anthropic.BadRequestError,
            r"prompt is too long: \d+ tokens > 8191 maximum",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": "AA==",
                                },
                            }
                        ],
                    }
                ]
            },
            anthropic.BadRequestError,
            "is an image",
        ),
    ],
    ids=["a long prompt", "an image"],
)
def test_the_client_raises_what_is_wrong(
    sdk: Anthropic, change: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        sdk.messages.create(**{**ASKED, **change})


def test_a_stream_that_is_closed_cancels_its_request(sdk: Anthropic, demo: LiveServer) -> None:
    def cancelled() -> float:
        return demo.metrics().get("mlxserve_request_failure_total{cancelled}", 0.0)

    before = cancelled()
    story: Any = [{"role": "user", "content": "Tell a long story of a red fox, in ten chapters."}]
    with sdk.messages.stream(**{**ASKED, "messages": story, "max_tokens": 4000}) as stream:
        next(iter(stream.text_stream))
    until(lambda: cancelled() == before + 1, 5)
    assert demo.rest(timeout=5) < 2
