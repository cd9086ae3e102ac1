"""What API surfaces see of a reply: fragments of calls, order, tokens of thinking."""

import json
from typing import Any

import pytest

from mlxserve_hookspecs import Finish, GenerationEvent, OutputDelta, ReplyPart, Usage
from mlxserve_plugins.openai.chat import SpokenChoice, meter_of

from .test_corpus import TOOLS, corpus, joined, parser, read
from .test_forced import Family

END = Finish(reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1))


def events(text: str) -> list[GenerationEvent]:
    found = [GenerationEvent(request_id="r", text=one, tokens=tuple(one.encode())) for one in text]
    return [*found, GenerationEvent(request_id="r", finish=END)]


def test_a_stream_tells_a_call_in_fragments_with_its_name_once() -> None:
    choice = SpokenChoice(parser("hermes"))
    text = next(one["text"] for one in corpus("hermes")["cases"] if one["case"] == "several")
    told: dict[int, list[Any]] = {}
    for event in events(text):
        delta = choice.read(event)
        choice.called(delta)
        for one in choice.fragments(delta):
            told.setdefault(one.index, []).append(one)
    assert [one.function.name for one in choice.calls] == ["weather", "weather"]
    assert choice.why("stop") == "tool_calls"
    for index, call in enumerate(choice.calls):
        first, *rest = told[index]
        assert (first.function.name, first.type) == ("weather", "function")
        assert first.id.startswith("call_")
        assert not any(one.id or one.function.name for one in rest)
        assert len(rest) > 5
        spelt = "".join(one.function.arguments for one in told[index])
        assert json.loads(spelt) == json.loads(call.function.arguments)


def test_a_model_that_names_its_calls_has_its_names_back() -> None:
    choice = SpokenChoice(parser("kimi-k2"))
    text = next(one["text"] for one in corpus("kimi-k2")["cases"] if one["case"] == "one call")
    (call,) = [one for event in events(text) for one in choice.called(choice.read(event))]
    assert call.id == "functions.weather:0"


@pytest.mark.parametrize("form", ["think", "harmony"])
def test_thinking_is_counted_by_tokens_not_by_when_its_text_came(form: str) -> None:
    family = "harmony" if form == "harmony" else "hermes"
    text = next(
        one["text"] for one in corpus(family)["cases"] if one["case"] == "thinking, no call"
    )
    markup = Family("hermes", form).markup
    choice = SpokenChoice(parser(family), meter=meter_of(Family("hermes", form), False))
    for event in events(text):
        choice.read(event)
    begun, ended = text.index(markup.think_start), text.index(markup.think_end)
    counted = text[begun + len(markup.think_start) : ended + len(markup.think_end)]
    assert choice.reasoning_tokens == len(counted.encode())


def test_a_reply_that_is_cut_while_thinking_has_no_content() -> None:
    deltas = read(parser("hermes", reasoning=True), ["Hm, ", "so <tool_"])
    assert "".join(delta.reasoning for delta in deltas) == "Hm, so <tool_"
    assert not any(delta.content or delta.tool_calls for delta in deltas)
    assert all(delta.thinking for delta in deltas)


def test_text_calls_and_text_keep_their_order_in_one_piece() -> None:
    text = next(
        one["text"] for one in corpus("hermes")["cases"] if one["case"] == "one call, text around"
    )
    kinds = [part.kind for part in joined(read(parser("hermes"), [text]))]
    assert kinds == ["content", "call", "content"]


def test_a_parser_that_knows_no_order_is_read_as_one_that_does() -> None:
    delta = OutputDelta(content="b", reasoning="a", tool_calls=({"name": "f", "arguments": "{}"},))
    assert delta.pieces(2) == (
        ReplyPart(kind="reasoning", text="a"),
        ReplyPart(kind="content", text="b"),
        ReplyPart(kind="call", index=2, name="f", arguments="{}", done=True),
    )


def test_deltas_add_up() -> None:
    first, second, *_ = read(parser("hermes", TOOLS), ["a ", "b"])
    both = first + second
    assert (both.content, both.parts) == ("a b", (*first.parts, *second.parts))
    plain = OutputDelta(content="x")
    assert (first + plain).parts == ()
    assert (first + plain).pieces() == (ReplyPart(kind="content", text="ax"),)
    assert (OutputDelta() + first).parts == first.parts
