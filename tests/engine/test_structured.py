"""A reply under a grammar parses, and is the same whatever else runs; its neighbours are, too."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.structured import Structured

from .harness import EOS, Bench, Letters, bench, plain, prompt, request
from .speculating import Scripted, always, oracle
from .tiny import shared_model

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pet": {"enum": ["cat", "dog", None]},
    },
    "required": ["name", "age", "pet"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
LENGTHS = (20, 5, 33, 70)
MOST = 400
SAMPLED = {"cold": {"temperature": 0.0}, "warm": {"temperature": 1.0, "seed": 7}}


class Bytes(Letters):
    """A codec of one byte per token; token 0 ends a reply."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return bytes(tokens).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


@cache
def model() -> Any:
    return shared_model("llama")


def constraining(*plugins: object, **changes: Any) -> Bench:
    return bench(model(), Structured(), *plugins, text=Bytes(), **changes)


def person(length: int, heat: str, **more: Any) -> Any:
    return request(
        f"person {length}",
        prompt(length),
        MOST,
        sampling=SAMPLED[heat],
        constraint=FORM,
        stop={"ignore_eos": False},
        **more,
    )


@cache
def alone(length: int, heat: str) -> tuple[int, ...]:
    it = constraining()
    it.submit(person(length, heat))
    it.run()
    return tuple(it.replies.tokens(f"person {length}"))


def parsed(tokens: Sequence[int]) -> Any:
    return json.loads(bytes(token for token in tokens if token != EOS))


def check_persons(it: Bench, heat: str) -> None:
    for length in LENGTHS:
        assert tuple(it.replies.tokens(f"person {length}")) == alone(length, heat), length
        assert it.replies.finish(f"person {length}").reason == "stop"


@pytest.mark.parametrize("heat", SAMPLED)
def test_a_reply_is_what_the_schema_says(heat: str) -> None:
    for length in LENGTHS:
        found = parsed(alone(length, heat))
        assert list(found) == ["name", "age", "pet"]
        assert len(found["name"]) <= 5
        assert 0 <= found["age"] <= 150
        assert found["pet"] in {"cat", "dog", None}


@pytest.mark.parametrize("heat", SAMPLED)
def test_constrained_and_free_rows_of_one_batch_do_not_hurt_each_other(heat: str) -> None:
    it = constraining(PrefixCache())
    for length in LENGTHS:
        it.submit(person(length, heat))
        it.submit(request(f"free {length}", prompt(length), 24))
    it.run()
    check_persons(it, heat)
    for length in LENGTHS:
        assert it.replies.tokens(f"free {length}") == plain(model(), prompt(length), 24), length


@pytest.mark.parametrize("heat", SAMPLED)
@pytest.mark.parametrize("kind", ["n-grams", "half wrong", "perfect"])
def test_drafts_change_nothing_of_a_constrained_reply(heat: str, kind: str) -> None:
    known = {tuple(prompt(length)): alone(length, heat) for length in LENGTHS}
    guess = oracle(known, wrong=3 if kind == "half wrong" else 0)
    it = constraining(always(), Ngram(NgramOptions()) if kind == "n-grams" else Scripted(guess))
    for length in LENGTHS:
        it.submit(person(length, heat))
    it.run()
    check_persons(it, heat)
    usages = [it.replies.finish(f"person {length}").usage for length in LENGTHS]
    assert sum(usage.accepted_draft_tokens for usage in usages) > 0
    if kind == "perfect":
        assert sum(usage.rejected_draft_tokens for usage in usages) == 0


def test_a_constrained_reply_goes_on_after_preemption() -> None:
    it = constraining(blocks=48)  # 768 tokens: three rows of 256
    for length in LENGTHS:
        it.submit(person(length, "warm"))
    it.submit(request("long", prompt(250), 120))
    it.submit(request("longer", prompt(240), 120))
    it.run()
    assert it.engine.scheduler.preemptions > 0
    check_persons(it, "warm")


def test_log_probabilities_do_not_change_a_constrained_reply() -> None:
    it = constraining()
    for length in LENGTHS:
        it.submit(person(length, "cold", logprobs=2))
    it.run()
    check_persons(it, "cold")
    for length in LENGTHS:
        found = it.replies.logprobs(f"person {length}")
        assert tuple(one.token for one in found) == alone(length, "cold")
        assert all(one.logprob <= 0 and len(one.top) == 2 for one in found)


def test_choices_follow_the_schema_each_in_its_own_words() -> None:
    it = constraining()
    it.submit(person(20, "warm", choices=3))
    it.run()
    replies = [it.replies.tokens("person 20", choice) for choice in range(3)]
    assert [list(parsed(tokens)) for tokens in replies] == [["name", "age", "pet"]] * 3
    assert len({tuple(tokens) for tokens in replies}) == 3


def test_a_schema_that_is_not_supported_hurts_its_own_request() -> None:
    it = constraining()
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    it.submit(request("bad", prompt(20), constraint=form))
    it.submit(person(20, "cold"))
    it.run()
    error = it.replies.finish("bad").error
    assert (error.status, error.param) == (400, "response_format")
    assert tuple(it.replies.tokens("person 20")) == alone(20, "cold")


def test_a_reply_under_a_grammar_ends_with_it_even_where_no_end_is_wanted() -> None:
    it = constraining()
    endless = {"ignore_eos": True, "min_tokens": MOST - 1}
    it.submit(request("on", prompt(20), MOST, constraint=FORM, stop=endless))
    it.run()
    assert it.replies.finish("on").reason == "stop"
    assert parsed(it.replies.tokens("on"))
