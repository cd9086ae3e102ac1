"""Schemas as clients send them are followed, and replies come to an end."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import validator_for

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.structured.fields import FIELDS, chat_constraint, constraint_of
from mlxserve_plugins.structured.schemas import GUIDANCE, closed, prepared

from ..openai.fake_engine import EOS, FakeText
from .test_forced import allowed, constrained, walk

NAME = {"type": "string", "maxLength": 3}
IDLE: dict[str, Any] = {
    "names that are strings": {"propertyNames": {"type": "string"}},
    "names that are anything": {"propertyNames": {}},
    "an unknown format": {"format": "int32"},
    "a format of another draft": {"format": "uri-reference"},
    "items that may repeat": {"uniqueItems": False},
    "nothing depends on anything": {"dependentRequired": {}},
    "then without if": {"then": {"type": "string"}},
    "if without then": {"if": {"type": "string"}},
    "unevaluated ones are free": {"unevaluatedProperties": True},
    "unevaluated ones are none": {"unevaluatedProperties": False},
    "counts of nothing": {"minContains": 1, "maxContains": 2},
    "annotations": {
        "title": "t",
        "$comment": "c",
        "examples": [1],
        "deprecated": True,
        "readOnly": True,
        "default": {},
        "x-order": 3,
        "markdownDescription": "m",
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
}


def schema(**more: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": {"a": NAME}, "required": ["a"], **more}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": found}}


@pytest.mark.parametrize("why", IDLE)
def test_what_is_always_true_or_says_nothing_is_accepted(why: str) -> None:
    said = walk(constrained(FakeText(), schema(**IDLE[why])), random.Random(1))
    assert list(json.loads(said)) == ["a"]
    inner = schema(properties={"a": NAME | IDLE[why]})
    walk(constrained(FakeText(), inner), random.Random(1))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", {"type": "string"}),
        ("contains", {"type": "string"}),
        ("uniqueItems", True),
        ("dependentRequired", {"a": ["b"]}),
        ("propertyNames", {"maxLength": 3}),
    ],
)
def test_what_cannot_be_followed_is_named_with_its_path(keyword: str, value: Any) -> None:
    inner = schema(properties={"a": {"type": "array", "items": {"anyOf": [{keyword: value}]}}})
    with pytest.raises(RequestError, match=keyword) as found:
        constrained(FakeText(), inner)
    assert ".properties.a.items.anyOf[0]" in found.value.message
    assert found.value.status == 400


def test_names_that_follow_a_pattern_are_followed() -> None:
    demand = {
        "type": "json_object",
        "schema": {
            "type": "object",
            "propertyNames": {"pattern": "^[ab]$"},
            "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0},
            "maxProperties": 2,
        },
    }
    found = json.loads(walk(constrained(FakeText(), demand), random.Random(3)))
    assert set(found) <= {"a", "b"}


@pytest.mark.parametrize("seed", range(5))
def test_without_a_word_on_other_properties_a_reply_has_each_declared_one_once(seed: int) -> None:
    inner = {"type": "object", "properties": {"c": NAME}, "required": ["c"]}
    demand = schema(properties={"a": NAME, "b": inner}, required=["a", "b"])
    said = walk(constrained(FakeText(), demand), random.Random(seed)).decode()
    pairs: list[list[str]] = []
    json.loads(said, object_pairs_hook=lambda found: pairs.append([key for key, _ in found]))
    assert pairs == [["c"], ["a", "b"]]


def test_white_space_is_a_space_or_none() -> None:
    constraint = constrained(FakeText(), schema())
    constraint.advance(b"{")
    assert allowed(constraint) == [ord('"')]
    constraint.advance(b'"a":')
    assert {*allowed(constraint)} == {*b' "'}
    constraint.advance(b' "b"')
    assert allowed(constraint) == [ord("}")]
    constraint.advance(b"}")
    assert constraint.finished or allowed(constraint) == [EOS]


@pytest.mark.parametrize(
    "open_one",
    [
        {"additionalProperties": True},
        {"additionalProperties": {"type": "string"}},
        {"patternProperties": {"^x": {}}},
        {"allOf": [{"properties": {"b": {}}}]},
    ],
)
def test_an_object_that_may_have_more_stays_open(open_one: dict[str, Any]) -> None:
    found = prepared({"type": "object", "properties": {"a": {}}, **open_one}, "p")
    assert found.get("additionalProperties") is not False
    for one in found.get("allOf", ()):
        assert "additionalProperties" not in one


def test_what_is_required_is_declared() -> None:
    found = prepared({"type": "object", "properties": {"a": {}}, "required": ["a", "b"]}, "p")
    assert set(found["properties"]) == {"a", "b"}


def test_parts_of_a_whole_do_not_shut_each_other_out() -> None:
    both = {
        "allOf": [
            {"type": "object", "properties": {"a": NAME}, "required": ["a"]},
            {"$ref": "#/$defs/more"},
        ],
        "$defs": {"more": {"type": "object", "properties": {"b": NAME}, "required": ["b"]}},
    }
    demand = {"type": "json_object", "schema": both}
    constraint = constrained(FakeText(), demand)
    constraint.advance(b'{"a": "x", "b": "y"')
    assert ord("}") in allowed(constraint)


def test_arguments_are_an_object_of_declared_properties() -> None:
    assert closed(None, "tools") == {
        "type": "object",
        "additionalProperties": False,
        "x-guidance": GUIDANCE,
    }
    assert closed({"properties": {"a": {}}}, "tools")["additionalProperties"] is False
    assert closed({"additionalProperties": True}, "tools")["additionalProperties"] is True


PERSON = {"type": "object", "properties": {"a": NAME}, "required": ["a"]}
DEMANDS: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "vLLM's guided_json": ({"guided_json": PERSON}, b'{"a": "x"}', "guided_json"),
    "as text": ({"guided_json": json.dumps(PERSON)}, b'{"a": "x"}', "guided_json"),
    "guided_regex": ({"guided_regex": "a/[0-9]{2}"}, b"a/12", "guided_regex"),
    "guided_choice": ({"guided_choice": ["yes", 'n"o']}, b'n"o', "guided_choice"),
    "guided_grammar": ({"guided_grammar": 'start: "a" b\nb: "b"'}, b"ab", "guided_grammar"),
    "GBNF": ({"grammar": 'root ::= "a" b\nb ::= "b"'}, b"ab", "grammar"),
    "SGLang's ebnf": ({"ebnf": 'root ::= "a" "b"'}, b"ab", "ebnf"),
    "SGLang's regex": ({"regex": "[ab]{2}"}, b"ab", "regex"),
    "structured_outputs": ({"structured_outputs": {"choice": ["b"]}}, b"b", "choice"),
    "its json": ({"structured_outputs": {"json": PERSON}}, b'{"a": "x"}', "json"),
    "its json_object": ({"structured_outputs": {"json_object": True}}, b"{}", "json_object"),
    "response_format": (
        {"response_format": {"type": "json_object"}, "guided_json": None},
        b"{}",
        "response_format",
    ),
    "its regex": ({"response_format": {"type": "regex", "pattern": "a"}}, b"a", "regex"),
}


@pytest.mark.parametrize("why", DEMANDS)
def test_the_fields_of_other_servers_are_honoured(why: str) -> None:
    fields, said, _ = DEMANDS[why]
    constraint = constrained(FakeText(), constraint_of(fields))
    for token in said:
        assert token in allowed(constraint)
        constraint.advance((token,))
    assert constraint.finished or EOS in allowed(constraint)
    assert constraint.finished or ord("@") not in allowed(constraint)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice"),
        ({"response_format": {"type": 3}}, "response_format.type"),
        ({"structured_outputs": []}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"regex": "a", "guided_regex": "b"}, "regex"),
    ],
)
def test_a_malformed_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as found:
        constraint_of(fields)
    assert (found.value.status, found.value.param) == (400, param)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"other": 1}])
def test_fields_that_demand_nothing_demand_nothing(fields: dict[str, Any]) -> None:
    assert constraint_of(fields) is None
    assert constraint_of(dict.fromkeys(FIELDS)) is None


@pytest.mark.parametrize(
    "fields",
    [{"guided_regex": "(?=a)b"}, {"guided_grammar": "start: ("}, {"grammar": "root ::= ("}],
)
def test_what_is_no_grammar_is_a_400_that_names_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as found:
        constrained(FakeText(), constraint_of(fields))
    assert (found.value.status, found.value.param) == (400, next(iter(fields)))


LEAVES = st.sampled_from(
    [
        {"type": "string", "maxLength": 4},
        {"type": "string", "format": "int32", "maxLength": 3},
        {"type": "integer", "minimum": -5, "maximum": 300},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None]},
        {"const": {"k": [1]}},
        {"type": "string", "pattern": "^[ab]{1,3}$"},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "format": "date"},
        {"$ref": "#/$defs/x"},
    ]
)


def objects_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas of objects, some of them open, with what clients write beside."""
    names = st.lists(st.sampled_from("abcd"), unique=True, min_size=1, max_size=3)

    def build(keys: list[str], parts: list[Any], must: int, more: dict[str, Any]) -> Any:
        properties = dict(zip(keys, parts, strict=False))
        return {"type": "object", "properties": properties, "required": keys[:must], **more}

    more = st.sampled_from(
        [{}, {"additionalProperties": False}, {"title": "t"}, {"propertyNames": {"type": "string"}}]
    )
    parts = st.lists(inner, min_size=3, max_size=3)
    return st.builds(build, names, parts, st.integers(0, 3), more)


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects_of(inner),
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(inner=SCHEMAS, seed=st.integers(0, 1000))
def test_whatever_is_said_under_a_schema_validates_and_ends(inner: Any, seed: int) -> None:
    schema = {**inner, "$defs": {"x": {"type": "object", "properties": {"n": {"type": "null"}}}}}
    constraint = constrained(FakeText(), {"type": "json_object", "schema": schema})
    said = walk(constraint, random.Random(seed))
    assert len(said) < 3000
    assert validator_for(schema).is_valid(json.loads(said))


FREE = [{"type": "function", "function": {"name": "f"}}]
STRICT = [{"type": "function", "function": {"name": "f", "strict": True}}]
AUTO = {"type": "tool_choice", "tool_choice": "auto"}
JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("fields", "wish", "wanted"),
    [
        ({}, {}, None),
        ({}, {"tools": FREE}, None),
        ({}, {"tools": FREE, "choice": "auto", "parallel": True}, None),
        ({}, {"tools": STRICT}, {**AUTO, "tools": STRICT, "parallel": True}),
        ({}, {"tools": FREE, "parallel": False}, {**AUTO, "tools": FREE, "parallel": False}),
        ({}, {"tools": STRICT, "choice": "none", "parallel": False}, None),
        (
            {},
            {"tools": FREE, "choice": "required"},
            {"type": "tool_choice", "tool_choice": "required", "tools": FREE},
        ),
        (
            JSON,
            {"tools": FREE, "parallel": False},
            {"type": "json_object", "calls": {"tools": FREE, "parallel": False}},
        ),
        (JSON, {"budget": 7}, {"type": "json_object", "thinking_budget": 7}),
        ({}, {"budget": 7}, {"type": "thinking", "thinking_budget": 7}),
    ],
)
def test_a_chat_request_has_the_one_constraint_that_it_needs(
    fields: dict[str, Any], wish: dict[str, Any], wanted: Any
) -> None:
    assert chat_constraint(fields, **wish) == wanted


def test_a_form_and_a_forced_call_exclude_each_other() -> None:
    with pytest.raises(RequestError) as found:
        chat_constraint(JSON, tools=FREE, choice="required")
    assert found.value.param == "tool_choice"
