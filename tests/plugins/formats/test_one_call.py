"""A reply whose client takes one call ends with it, in every family's form."""

from collections.abc import Iterator
from typing import Any

import pytest

from mlxserve_hookspecs import GenerationRequest, StopCondition
from mlxserve_plugins.tools import Tools

from ..openai.fake_engine import FakeText
from .test_corpus import FAMILIES, TOOLS, corpus, joined, markup_of, parser, read
from .test_forced import asked, constrained

AT_ONCE = ("lfm2", "llama4", "minimax-m3")
"""Forms whose calls are read when the last of them is there: only their grammar has one call."""

ONE = {"type": "tool_choice", "tool_choice": "auto", "tools": TOOLS, "parallel": False}


class Spoken(FakeText):
    def __init__(self, family: str) -> None:
        super().__init__()
        self.markup = markup_of(family)


def condition(family: str, demand: Any = ONE) -> StopCondition | None:
    request: GenerationRequest = asked(demand)
    return Tools().make_stop_condition(request, Spoken(family))


def replies(case: str) -> Iterator[Any]:
    for family in FAMILIES:
        for found in corpus(family)["cases"]:
            if found["case"] == case:
                yield pytest.param(family, found["text"], id=family)


def kept(family: str, text: str) -> str:
    """Return what comes of a reply before the condition ends it."""
    it = condition(family)
    assert it is not None
    said = text.encode()
    at = next((n for n, byte in enumerate(said, 1) if it.advance(byte)), len(said))
    return said[:at].decode()


@pytest.mark.parametrize(
    ("family", "text"), [case for case in replies("several") if case.id not in AT_ONCE]
)
def test_of_several_calls_the_first_is_kept_whole(family: str, text: str) -> None:
    whole, cut = (joined(read(parser(family), [one])) for one in (text, kept(family, text)))
    calls = [part for part in whole if part.kind == "call"]
    assert len(calls) > 1
    assert [part for part in cut if part.kind == "call"] == calls[:1]
    before = whole[: whole.index(calls[0])]
    assert [part for part in cut if part.kind != "call"] == before


@pytest.mark.parametrize("family", AT_ONCE)
def test_where_calls_are_read_at_once_the_grammar_has_one(family: str) -> None:
    text = next(one["text"] for one in corpus(family)["cases"] if one["case"] == "several")
    constraint = constrained(Spoken(family), ONE)
    with pytest.raises(ValueError, match="do not follow"):
        constraint.advance(text.encode())


@pytest.mark.parametrize("case", ["no call", "cut short"])
@pytest.mark.parametrize("family", ["hermes", "llama3", "harmony", "qwen3-coder"])
def test_without_a_whole_call_the_reply_goes_on(family: str, case: str) -> None:
    text = next(found["text"] for found in corpus(family)["cases"] if found["case"] == case)
    assert kept(family, text) == text


@pytest.mark.parametrize(
    "demand", [None, {**ONE, "parallel": True}, {"type": "json_object"}, {"type": "thinking"}]
)
def test_other_requests_have_no_such_condition(demand: Any) -> None:
    assert condition("hermes", demand) is None


def test_a_form_that_may_be_calls_may_be_one_at_most() -> None:
    calls = {"tools": TOOLS, "parallel": False}
    assert condition("hermes", {"type": "json_object", "calls": calls}) is not None
