"""Replies of many families: what is read does not depend on how the text came."""

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxserve_hookspecs import Markup, OutputDelta, OutputParser, ReplyPart
from mlxserve_plugins.tools.choosing import markup_for

from ..openai.fake_engine import FakeText

FOLDER = Path(__file__).parent / "corpus"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.json"))
CASES = [
    "one call",
    "several",
    "nested JSON",
    "unicode",
    "quotes and markers in strings",
    "cut short",
    "no call",
]
THINKING = ["thinking before", "thinking between", "cut while thinking", "thinking, no call"]
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
    },
    {
        "type": "function",
        "function": {
            "name": "note",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "more": {"type": "object"},
                },
            },
        },
    },
]


@cache
def corpus(family: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{family}.json").read_text())
    return found


def all_cases() -> Iterator[Any]:
    for family in FAMILIES:
        for case in corpus(family)["cases"]:
            yield pytest.param(family, case, id=f"{family}: {case['case']}")


def markup_of(family: str) -> Markup:
    found = corpus(family)
    return markup_for(FakeText(), "", found["format"], found["thinking"])


def parser(family: str, tools: Any = TOOLS, **how: Any) -> OutputParser:
    markup = markup_of(family)
    assert markup.calls is not None
    return markup.calls.parser(markup, tools, **how)


def read(reader: OutputParser, pieces: Sequence[str]) -> list[OutputDelta]:
    return [*map(reader.feed, pieces), reader.finish()]


def joined(deltas: Sequence[OutputDelta]) -> list[ReplyPart]:
    """Return the parts in order, neighbours of a kind made one."""
    found: list[ReplyPart] = []
    for part in (part for delta in deltas for part in delta.parts):
        before = found[-1] if found else None
        if before is None or (before.kind, before.index, before.done) != (
            part.kind,
            part.index,
            False,
        ):
            found.append(part)
            continue
        found[-1] = evolve(
            before,
            text=before.text + part.text,
            arguments=before.arguments + part.arguments,
            done=part.done,
        )
    return found


def summed(deltas: Sequence[OutputDelta]) -> tuple[str, str, list[Any], int]:
    return (
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        [call for delta in deltas for call in delta.tool_calls],
        sum(delta.broken for delta in deltas),
    )


def test_every_family_has_every_case() -> None:
    assert len(FAMILIES) >= 12
    for family in FAMILIES:
        wanted = CASES if corpus(family)["thinking"] == "none" else [*CASES, *THINKING]
        assert set(wanted) <= {case["case"] for case in corpus(family)["cases"]}


@pytest.mark.parametrize(("family", "case"), [*all_cases()])
def test_a_reply_is_read_as_the_corpus_says(family: str, case: dict[str, Any]) -> None:
    content, reasoning, calls, broken = summed(read(parser(family), [case["text"]]))
    if case.get("cut") == "text":
        assert (content, reasoning, calls) == (case["text"], "", [])
    elif case.get("cut") == "call":
        (call,) = calls
        assert (content, call["name"], broken) == ("", "weather", 1)
        assert call["arguments"] == '{"city": "Par'
    else:
        said = [[call["name"], json.loads(call["arguments"])] for call in calls]
        assert (content, reasoning) == (case["content"], case["reasoning"])
        assert (said, broken) == (case["calls"], 0)


@pytest.mark.parametrize(("family", "case"), [*all_cases()])
def test_it_is_the_same_at_every_split_and_in_ragged_pieces(
    family: str, case: dict[str, Any]
) -> None:
    text = case["text"]
    whole = read(parser(family), [text])
    wanted = joined(whole), summed(whole)
    splits = [[text[:at], text[at:]] for at in range(1, len(text))]
    for pieces in [*splits, list(text), *ragged(text)]:
        deltas = read(parser(family), pieces)
        assert (joined(deltas), summed(deltas)) == wanted


def ragged(text: str) -> Iterator[list[str]]:
    dice = random.Random(len(text))
    for longest in (3, 7, 20):
        pieces, at = [], 0
        while at < len(text):
            size = dice.randint(0, longest)
            pieces.append(text[at : at + size])
            at += size
        yield pieces


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_call_are_what_the_whole_call_says(family: str) -> None:
    for case in corpus(family)["cases"]:
        deltas = read(parser(family), list(case["text"]))
        parts = [part for part in joined(deltas) if part.kind == "call"]
        calls = [call for delta in deltas for call in delta.tool_calls]
        assert [part.index for part in parts] == list(range(len(calls)))
        assert all(part.done for part in parts)
        assert [(part.name, part.arguments) for part in parts] == [
            (call["name"], call["arguments"]) for call in calls
        ]


STREAMING = [
    family
    for family in FAMILIES
    if any(case.get("cut") == "call" for case in corpus(family)["cases"])
]


@pytest.mark.parametrize("family", STREAMING)
def test_arguments_stream_as_they_come(family: str) -> None:
    text = next(one["text"] for one in corpus(family)["cases"] if one["case"] == "one call")
    reader, heard = parser(family), ""
    for piece in text[: text.index("Paris") + 2]:
        heard += "".join(part.arguments for part in reader.feed(piece).parts)
    assert heard == '{"city": "Pa'


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_end_leaves_of_a_forced_call_is_no_content(family: str) -> None:
    text = next(one["text"] for one in corpus(family)["cases"] if one["case"] == "one call")
    for end in range(len(text)):
        content, reasoning, calls, _ = summed(read(parser(family, forced=True), [text[:end]]))
        assert (content, reasoning) == ("", ""), end
        assert len(calls) <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tools_a_reply_has_no_calls(family: str) -> None:
    for case in corpus(family)["cases"]:
        assert summed(read(parser(family, tools=None), [case["text"]]))[2] == []


@settings(max_examples=60, deadline=None)
@given(data=st.data(), family=st.sampled_from(FAMILIES))
def test_whatever_the_pieces_are_made_of_the_outcome_is_the_same(
    data: st.DataObject, family: str
) -> None:
    texts = [case["text"] for case in corpus(family)["cases"]]
    markup = markup_of(family)
    marks = [markup.think_start, markup.think_end, markup.tool_start, markup.tool_end]
    scraps = [text[a:b] for text in texts for a, b in ((0, 9), (5, 40), (len(text) - 12, None))]
    parts = st.sampled_from([*texts, *scraps, *filter(None, marks), *'{}[]"\\<>\n a:,', "é"])
    text = "".join(data.draw(st.lists(parts, max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    reasoning = data.draw(st.booleans())
    whole = read(parser(family, reasoning=reasoning), [text])
    for other in (pieces, list(text)):
        deltas = read(parser(family, reasoning=reasoning), other)
        assert (joined(deltas), summed(deltas)) == (joined(whole), summed(whole))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    ),
    max_leaves=8,
)
SPELT = {
    "hermes": '<tool_call>\n{"name": "note", "arguments": %s}\n</tool_call>',
    "llama3": '{"name": "note", "parameters": %s}',
    "mistral": "[TOOL_CALLS]note[ARGS]%s",
    "kimi-k2": "<|tool_call_begin|>functions.note:0<|tool_call_argument_begin|>%s<|tool_call_end|>",
    "deepseek-v3": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>note\n```json\n%s\n```",
    "cohere": '<|START_ACTION|>[{"tool_name": "note", "parameters": %s}]<|END_ACTION|>',
    "harmony": "<|channel|>commentary to=functions.note<|message|>%s<|call|>",
}


@settings(max_examples=150, deadline=None)
@given(
    family=st.sampled_from(sorted(SPELT)),
    more=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=4),
    spelling=st.sampled_from(
        [{}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}]
    ),
    size=st.integers(1, 9),
)
def test_any_arguments_come_back_as_they_were(
    family: str, more: dict[str, Any], spelling: dict[str, Any], size: int
) -> None:
    text = SPELT[family] % json.dumps(more, **spelling)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    content, _, calls, broken = summed(read(parser(family), pieces))
    assert (content, broken) == ("", 0)
    assert [json.loads(call["arguments"]) for call in calls] == [more]


@pytest.mark.parametrize(
    ("spelt", "read_as"),
    [
        ('{"text": "a\nb\tc\x01"}', {"text": "a\nb\tc\x01"}),
        ('{"text": True, "tags": None}', {"text": True, "tags": None}),
        ('{"text": "\\ud83d"}', {"text": "\ufffd"}),
        ('{"text": "\\ud83d\\ude00"}', {"text": "😀"}),
        ('"{\\"text\\": \\"a\\"}"', {"text": "a"}),
        ("null", {}),
    ],
    ids=["control characters", "Python's constants", "half a pair", "a pair", "text", "null"],
)
def test_what_models_write_in_place_of_json_is_read(spelt: str, read_as: Any) -> None:
    text = '<tool_call>{"name": "note", "arguments": %s}</tool_call>' % spelt  # noqa: UP031
    for pieces in ([text], list(text)):
        (call,) = summed(read(parser("hermes"), pieces))[2]
        assert json.loads(call["arguments"]) == read_as


@pytest.mark.parametrize("form", ["hermes", "qwen3-coder", "minimax-m2", "glm"])
def test_a_call_that_breaks_after_its_arguments_began_stays_one_and_is_counted(form: str) -> None:
    text = next(one["text"] for one in corpus(form)["cases"] if one["case"] == "one call")
    broken = text.replace("Paris", "Paris", 1)
    cut = broken.index("Paris") + 5
    broken = broken[:cut].replace('"Paris', "Paris") + " oops" + text[text.rindex("</") :]
    content, _, calls, count = summed(read(parser(form), [broken]))
    assert (content, count) == ("", 1)
    (call,) = calls
    assert call["name"] == "weather"
    with pytest.raises(ValueError, match=r"."):
        json.loads(call["arguments"])


def test_a_forgotten_brace_after_the_arguments_harms_nobody() -> None:
    text = '<tool_call>{"name": "note", "arguments": {"text": "a"}</tool_call>Yes.'
    content, _, calls, broken = summed(read(parser("hermes"), [text]))
    assert (content, broken) == ("Yes.", 0)
    assert json.loads(calls[0]["arguments"]) == {"text": "a"}


def test_llamas_interpreter_is_called_with_a_program_and_its_tools_by_name() -> None:
    tools = [*TOOLS, {"type": "function", "function": {"name": "ipython"}}]
    program = "<|python_tag|>print('<b>', 1)\n"
    (call,) = summed(read(parser("llama3", tools), list(program)))[2]
    assert (call["name"], json.loads(call["arguments"])) == ("ipython", {"code": "print('<b>', 1)"})
    builtin = '<|python_tag|>brave_search.call(query="x")'
    (call,) = summed(read(parser("llama3"), list(builtin)))[2]
    assert (call["name"], json.loads(call["arguments"])) == ("brave_search", {"query": "x"})
    assert summed(read(parser("llama3"), [program]))[0] == program


def test_a_json_answer_of_a_model_with_bare_calls_streams_as_content() -> None:
    reader = parser("llama3")
    said = [reader.feed(piece).content for piece in ('{"ans', 'wer": ', "42}")]
    assert said == ["", '{"answer":', " 42}"]
