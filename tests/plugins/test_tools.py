"""Tool calls and thinking in replies of several model families, however the text is cut."""

import importlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mlxserve_hookspecs import Markup, OutputDelta, OutputParser
from mlxserve_plugins.tools import Tools

from .openai.fake_engine import FakeText

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]
PARIS = ("weather", {"city": "Paris", "days": 3})
ROME = ("weather", {"city": "Rome", "days": 1})
SPELT = {
    "json_tools": '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 3}}\n'
    "</tool_call>",
    "qwen3_coder": "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "mistral": '[TOOL_CALLS]weather[ARGS]{"city": "Paris", "days": 3}',
    "glm47": "<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value>"
    "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
    "pythonic": '<|tool_call_start|>[weather(city="Paris", days=3)]<|tool_call_end|>',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    '<|tool_call_argument_begin|>{"city": "Paris", "days": 3}<|tool_call_end|>'
    "<|tool_calls_section_end|>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Paris'
    '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    "longcat": "<longcat_tool_call>weather\n<longcat_arg_key>city</longcat_arg_key>\n"
    "<longcat_arg_value>Paris</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n"
    "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>",
}


def markup_of(form: str, **more: Any) -> Markup:
    module = importlib.import_module(f"mlx_lm.tool_parsers.{form}")
    return Markup(
        tool_start=module.tool_call_start,
        tool_end=module.tool_call_end,
        parse_call=module.parse_tool_call,
        **more,
    )


QWEN = markup_of("json_tools", think_start="<think>", think_end="</think>")


def parser(
    markup: Markup, *, tools: Any = TOOLS, reasoning: bool = False, forced: bool = False
) -> OutputParser:
    text = FakeText()
    text.markup = markup
    made = Tools().make_output_parser(text, tools, reasoning, forced)
    assert made is not None
    return made


def read(reader: OutputParser, pieces: Sequence[str]) -> OutputDelta:
    deltas = [*map(reader.feed, pieces), reader.finish()]
    return OutputDelta(
        content="".join(delta.content for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
    )


def called(delta: OutputDelta) -> list[tuple[str, Any]]:
    return [(call["name"], json.loads(call["arguments"])) for call in delta.tool_calls]


@pytest.mark.parametrize("form", SPELT)
def test_a_call_is_read_whole_and_letter_by_letter(form: str) -> None:
    for pieces in ([SPELT[form]], list(SPELT[form])):
        delta = read(parser(markup_of(form)), pieces)
        assert called(delta) == [PARIS]
        assert (delta.content, delta.reasoning) == ("", "")


@pytest.mark.parametrize("form", [form for form in SPELT if form != "mistral"])
def test_text_around_calls_is_content_and_calls_keep_their_order(form: str) -> None:
    second = SPELT[form].replace("Paris", "Rome").replace("3", "1")
    delta = read(parser(markup_of(form)), [f"Let me see.\n\n{SPELT[form]}\n{second}\nSoon."])
    assert called(delta) == [PARIS, ROME]
    assert delta.content == "Let me see.\nSoon."


@pytest.mark.parametrize("form", SPELT)
def test_a_forced_call_is_json_between_the_models_own_markers(form: str) -> None:
    markup = markup_of(form)
    body = json.dumps({"name": "weather", "arguments": PARIS[1]})
    delta = read(parser(markup), [f"{markup.tool_start}{body}{markup.tool_end}"])
    assert called(delta) == [PARIS]


def test_a_model_without_markers_is_read_with_hermes_markers() -> None:
    assert called(read(parser(Markup()), [SPELT["json_tools"]])) == [PARIS]


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "weather", "arguments": ',
        "[]",
        "not a call",
        '{"arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": "oops"}',
        "",
    ],
)
@pytest.mark.parametrize("form", ["json_tools", "qwen3_coder", "pythonic"])
def test_what_is_no_call_is_content_and_nothing_of_it_is_lost(form: str, body: str) -> None:
    markup = markup_of(form)
    text = f"One \n {markup.tool_start} {body}\n{markup.tool_end} two"
    delta = read(parser(markup), list(text))
    assert (delta.content, delta.tool_calls) == (text, ())


def test_a_call_that_the_reply_ends_in_is_read_if_it_is_whole() -> None:
    whole, cut = SPELT["json_tools"].removesuffix("\n</tool_call>"), '<tool_call>\n{"name": "we'
    assert called(read(parser(QWEN), [whole])) == [PARIS]
    assert read(parser(QWEN), [cut]).content == cut


def test_thinking_is_told_apart_with_the_space_around_it() -> None:
    text = f"<think>\nIs it 3 < 4?\n</think>\n\nYes. {SPELT['json_tools']}"
    delta = read(parser(QWEN), list(text))
    assert (delta.reasoning, delta.content) == ("Is it 3 < 4?", "Yes.")
    assert called(delta) == [PARIS]


def test_a_reply_may_begin_within_the_thinking() -> None:
    delta = read(parser(QWEN, tools=None, reasoning=True), ["\nSo", ".\n</thi", "nk>\n\nDone\n"])
    assert (delta.reasoning, delta.content) == ("So.", "Done\n")


def test_without_tools_nothing_is_a_call() -> None:
    delta = read(parser(QWEN, tools=None), [SPELT["json_tools"]])
    assert (delta.content, delta.tool_calls) == (SPELT["json_tools"], ())


def test_where_there_can_be_no_marker_nobody_reads() -> None:
    assert Tools().make_output_parser(FakeText(), None, False) is None


def test_content_comes_as_soon_as_it_can_be_no_marker() -> None:
    reader = parser(QWEN)
    said = [reader.feed(piece).content for piece in ("Hello", " wor", "ld <", "tool", "s> ", "and")]
    assert said == ["Hello", " wor", "ld", "", " <tools>", " and"]


def test_a_model_with_states_of_its_own_is_read_by_them() -> None:
    markup = Markup(
        initial="header",
        transitions={
            "header": (("to=self|", "reasoning"), ("to=user|", "normal"), ("<call>", "tool")),
            "reasoning": (("<eom>", "header"),),
            "normal": (("<eom>", "header"),),
        },
        tool_start="<call>",
        tool_end="</call>",
    )
    call = json.dumps({"name": "weather", "arguments": PARIS[1]})
    text = f"to=self|Hm.<eom>to=user|Wait.<eom><call>{call}</call>"
    delta = read(parser(markup), list(text))
    assert (delta.reasoning, delta.content) == ("Hm.", "Wait.")
    assert called(delta) == [PARIS]


MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_"]
CALLS = ['{"name": "weather", "arguments": {}}', SPELT["json_tools"]]
PARTS = st.sampled_from([*"<>/ \n", *MARKERS, *CALLS, "a", '"}', "é", "text"])


@given(parts=st.lists(PARTS, max_size=12), data=st.data(), reasoning=st.booleans())
def test_however_a_reply_is_cut_the_outcome_is_the_same(
    parts: list[str], data: st.DataObject, reasoning: bool
) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(parser(QWEN, reasoning=reasoning), [text])
    assert read(parser(QWEN, reasoning=reasoning), pieces) == whole
    assert read(parser(QWEN, reasoning=reasoning), list(text)) == whole


@given(parts=st.lists(PARTS, max_size=12))
def test_where_there_is_no_call_all_but_space_and_thinking_markers_is_told(
    parts: list[str],
) -> None:
    text = "".join(parts)
    delta = read(parser(QWEN), list(text))
    assume(not delta.tool_calls)
    assert bare(delta.reasoning + delta.content) == bare(text)


def bare(text: str) -> str:
    """Return the letters in order of the alphabet: thinking may come from amidst the content."""
    unmarked = text.replace("<think>", "").replace("</think>", "")
    return "".join(sorted("".join(unmarked.split())))


def test_calls_that_cannot_be_read_are_counted_and_logged_without_their_text() -> None:
    plugin = Tools()
    text = FakeText()
    text.markup = QWEN
    parser = plugin.make_output_parser(text, TOOLS, False)
    assert parser is not None
    with capture_logs() as lines:
        parser.feed("<tool_call>secret</tool_call>")
        parser.finish()
    assert plugin.running_totals() == {"broken_tool_calls": 1.0}
    (line,) = lines
    assert line["event"] == "a tool call could not be read"
    assert "secret" not in str(line)
