"""Whatever a model would say, its reply follows the grammar; tokens are taken back exactly."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from structlog.testing import capture_logs

from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    Limits,
    Markup,
    ModelCard,
    RequestError,
    SamplingParams,
    StopConditions,
    TextCodec,
)
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.structured.demands import LONGEST
from mlxserve_plugins.tools import Tools

from ..core.text.conftest import byte_level, sentencepiece, wrapped
from .openai.fake_engine import EOS, FakeText

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pets": {"type": "array", "items": {"enum": ["cat", "dög"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
FUNCTIONS = [
    {"type": "function", "function": {"name": "meet", "parameters": PERSON}},
    {"type": "function", "function": {"name": 'say "hé"\\'}},
]
CODECS: dict[str, Callable[[], TextCodec]] = {
    "bytes": FakeText,
    "byte-level": lambda: Tokenizer(wrapped(byte_level())),
    "sentencepiece": lambda: Tokenizer(wrapped(sentencepiece(strip=False))),
    "sentencepiece that strips": lambda: Tokenizer(wrapped(sentencepiece(strip=True))),
}
WIDTH = 400
"""More than any of them has: models pad their vocabularies."""


@pytest.fixture(scope="module", params=CODECS)
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return CODECS[request.param]()


@pytest.fixture(scope="module")
def plugin() -> Structured:
    return Structured()


def asked(constraint: Mapping[str, Any] | None, prompt: tuple[int, ...] = (7,)) -> Any:
    return GenerationRequest(
        id="r",
        prompt=prompt,
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=9),
        constraint=constraint,
    )


def constrained(plugin: Structured, text: TextCodec, demand: Any, **more: Any) -> Constraint:
    made = plugin.make_constraint(asked(demand, **more), text, WIDTH)
    assert made is not None
    return made


def allowed(constraint: Constraint) -> list[int]:
    mask = constraint.mask()
    assert mask is not None
    assert (mask.dtype, mask.shape) == (mx.bool_, (WIDTH,))
    return np.nonzero(np.array(mask))[0].tolist()


def walk(constraint: Constraint, text: TextCodec, seed: int) -> Iterator[int]:
    """Say anything that is allowed, until nothing more is."""
    dice = random.Random(seed)
    while not constraint.finished:
        token = dice.choice(allowed(constraint))
        if token in text.eos_token_ids:
            return
        constraint.advance((token,))
        yield token


def check_person(found: Any) -> None:
    assert list(found) == ["name", "age", "pets"]
    assert isinstance(found["name"], str)
    assert 0 <= found["age"] <= 150
    assert set(found["pets"]) <= {"cat", "dög"}


@pytest.mark.parametrize("seed", range(3))
def test_random_tokens_spell_what_the_schema_says(
    plugin: Structured, codec: TextCodec, seed: int
) -> None:
    tokens = list(walk(constrained(plugin, codec, FORM), codec, seed))
    check_person(json.loads(codec.decode(tokens, skip_special_tokens=True)))


@pytest.mark.parametrize("seed", range(3))
def test_random_tokens_spell_the_call_that_is_forced(
    plugin: Structured, codec: TextCodec, seed: int
) -> None:
    demand = {"type": "tool_choice", "tool_choice": "required", "tools": FUNCTIONS}
    text = codec.decode(list(walk(constrained(plugin, codec, demand), codec, seed)))
    parser = Tools().make_output_parser(codec, FUNCTIONS, False)
    assert parser is not None
    parts = [parser.feed(text), parser.finish()]
    (call,) = [call for part in parts for call in part.tool_calls]
    assert "".join(part.content for part in parts).strip() == ""
    if call["name"] == "meet":
        check_person(json.loads(call["arguments"]))
    else:
        assert (call["name"], call["arguments"]) == ('say "hé"\\', "{}")


def test_the_named_function_is_the_one_that_is_called(plugin: Structured) -> None:
    choice = {"type": "function", "function": {"name": 'say "hé"\\'}}
    demand = {"type": "tool_choice", "tool_choice": choice, "tools": FUNCTIONS}
    codec = FakeText()
    for seed in range(3):
        text = codec.decode(list(walk(constrained(plugin, codec, demand), codec, seed)))
        assert json.loads(text[len("<tool_call>") : -len("</tool_call>")])["name"] == 'say "hé"\\'


def test_tokens_are_taken_back_exactly(plugin: Structured, codec: TextCodec) -> None:
    constraint, dice = constrained(plugin, codec, FORM), random.Random(5)
    for _ in range(25):
        masks = [allowed(constraint)]
        drafts: list[int] = []
        while len(drafts) < 4 and not constraint.finished:
            drafts.append(dice.choice(masks[-1]))
            constraint.advance((drafts[-1],))
            masks.append([] if constraint.finished else allowed(constraint))
        kept = dice.randrange(len(drafts))
        constraint.rollback(len(drafts) - kept)
        assert not constraint.finished
        assert allowed(constraint) == masks[kept]


def test_a_reply_may_end_only_where_the_grammar_may(plugin: Structured) -> None:
    text = FakeText()
    for schema, reply in (({"type": "integer"}, b"12"), (PERSON, b'{"name"')):
        constraint = constrained(plugin, text, {"type": "json_object", "schema": schema})
        for byte in reply:
            assert byte in allowed(constraint)
            constraint.advance((byte,))
        assert (EOS in allowed(constraint)) == (reply == b"12")


class TwoEnds(FakeText):
    eos_token_ids = frozenset({EOS, EOS + 2})


class Endless(FakeText):
    eos_token_ids = frozenset[int]()


class Thinker(FakeText):
    markup = Markup(think_start="<think>", think_end="</think>")


class Mistral(FakeText):
    """Opens calls with a special token, and ends them with the reply."""

    special_token_ids = frozenset({EOS, EOS + 1})
    markup = Markup(tool_start="<257>", special=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [EOS + 1] if text == "<257>" else super().encode(text)


def test_every_end_of_sequence_is_one(plugin: Structured) -> None:
    text = TwoEnds()
    constraint = constrained(plugin, text, {"type": "json_object", "schema": {"type": "integer"}})
    constraint.advance(b"1")
    assert {EOS, EOS + 2} == {token for token in allowed(constraint) if token >= EOS}


def test_a_model_without_an_end_of_sequence_ends_with_the_grammar(plugin: Structured) -> None:
    text = Endless()
    tokens = list(walk(constrained(plugin, text, FORM), text, 1))
    check_person(json.loads(text.decode(tokens)))


def test_special_tokens_are_no_text(plugin: Structured) -> None:
    text = FakeText()
    constraint = constrained(plugin, text, {"type": "json_object", "schema": {"type": "string"}})
    constraint.advance(b'"<')
    assert EOS not in allowed(constraint)
    assert EOS + 1 in allowed(constraint)


def test_a_marker_that_is_a_special_token_is_said_as_one(plugin: Structured) -> None:
    text, demand = Mistral(), {"type": "tool_choice", "tool_choice": "required", "tools": FUNCTIONS}
    tokens = list(walk(constrained(plugin, text, demand), text, 2))
    assert tokens[0] == EOS + 1
    assert json.loads(text.decode(tokens[1:]))["name"] in {"meet", 'say "hé"\\'}


def test_copies_of_a_grammar_do_not_know_of_each_other(plugin: Structured) -> None:
    text = FakeText()
    one, other = (constrained(plugin, text, FORM) for _ in range(2))
    one.advance(b"{")
    assert allowed(other) == [ord("{")]


def test_thinking_is_free_and_does_not_end_the_reply(plugin: Structured) -> None:
    text = Thinker()
    prompt = tuple(b"<think>\nassistant:")
    constraint = constrained(plugin, text, FORM, prompt=prompt)
    assert allowed(constraint) == [token for token in range(WIDTH) if token != EOS]
    constraint.advance(b"Hm.</think>")
    assert allowed(constraint) == [ord("\n"), ord("{")]
    constraint.advance(b"\n{")
    assert allowed(constraint) != [ord("{")]
    constraint.rollback(3)
    assert len(allowed(constraint)) == WIDTH - 1
    constraint.advance(b">{")
    check_person(json.loads(text.decode([ord("{"), *walk(constraint, text, 3)])))
    assert constraint.finished


def test_a_token_that_the_grammar_forbids_is_a_bug_and_said(plugin: Structured) -> None:
    with pytest.raises(ValueError, match="do not follow"):
        constrained(plugin, FakeText(), FORM).advance(b"x")


def schema(found: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": found}}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return found


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unsupported keyword": (schema({"not": {}}), "response_format", "not"),
    "a type that is none": (schema({"type": "banana"}), "response_format", "banana"),
    "what nothing can be": (
        schema({"type": "integer", "minimum": 2, "maximum": 1}),
        "response_format",
        "minimum",
    ),
    "a reference to elsewhere": (
        schema({"$ref": "http://localhost/x.json"}),
        "response_format",
        "not fetch",
    ),
    "too much": (schema({"enum": ["x" * LONGEST]}), "response_format", "too large"),
    "too deep": (schema(nested(5000)), "response_format", "recursion|deep"),
    "no schema": ({"type": "json_schema"}, "response_format.json_schema", "object"),
    "a schema that is none": (schema([]), "response_format.json_schema.schema", "schema"),
    "an unknown field": ({"type": "json_object", "strict": 1}, "response_format.strict", "strict"),
    "an unsupported parameter": (
        {
            "type": "tool_choice",
            "tool_choice": "required",
            "tools": [{"function": {"name": "f", "parameters": {"not": {}}}}],
        },
        "tools",
        "not",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_demand_that_cannot_be_met_is_refused_by_name(plugin: Structured, why: str) -> None:
    demand, param, word = REFUSED[why]
    with pytest.raises(RequestError, match=word) as found:
        plugin.make_constraint(asked(demand), FakeText(), WIDTH)
    assert (found.value.status, found.value.param) == (400, param)
    assert len(found.value.message) < 600


def test_a_tokenizer_that_cannot_spell_json_is_told(plugin: Structured) -> None:
    class Wordless(FakeText):
        def token_bytes(self, token: int) -> bytes:
            return b"w" * (token + 1)

    with pytest.raises(RequestError, match="cannot be followed") as found:
        constrained(plugin, Wordless(), FORM).mask()
    assert found.value.status == 400


@pytest.mark.parametrize("demand", [{"type": "even"}, {"type": 3}, {}])
def test_other_demands_are_left_to_others(plugin: Structured, demand: dict[str, Any]) -> None:
    assert plugin.make_constraint(asked(demand), FakeText(), WIDTH) is None


def test_without_the_library_it_says_so_once_and_answers_nothing() -> None:
    plugin = Structured(installed=False)
    with capture_logs() as lines:
        plugin.preparing()
    (line,) = lines
    assert "llguidance" in line["install"]
    assert plugin.make_constraint(asked(FORM), FakeText(), WIDTH) is None


def test_with_the_library_the_vocabulary_is_prepared_at_the_start() -> None:
    plugin, text = Structured(), FakeText()
    card = ModelCard(id="m", created=0, vocab_size=WIDTH, limits=Limits(), has_chat_template=True)
    with capture_logs() as lines:
        plugin.preparing()
        plugin.started(card, text)
    assert lines == []
    prepared = plugin._grammars
    constrained(plugin, text, FORM)
    assert plugin._grammars is prepared
