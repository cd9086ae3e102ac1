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
