"""Forms as clients send them, half of them damaged: for fuzzing whatever reads them."""

from typing import Any

from hypothesis import strategies as st

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
TYPES = st.sampled_from(
    ["object", "array", "string", "number", "integer", "boolean", "null", "banana"]
)
PATTERNS = st.sampled_from(["^a+$", "[a-z]{2,4}", "(", "(?=x)", "\\bq", "a{99999}", "", "^(a|b)*$"])


def _keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    named = st.dictionaries(st.sampled_from(["a", "b", "Ö", "c d"]), inner, max_size=2)
    known: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, max_size=2),
        "properties": named,
        "required": st.lists(st.sampled_from(["a", "b", "z"]), max_size=2),
        "items": inner,
        "prefixItems": st.lists(inner, max_size=2),
        "additionalProperties": st.booleans() | inner,
        "patternProperties": st.dictionaries(PATTERNS, inner, max_size=1),
        "anyOf": st.lists(inner, max_size=2),
        "oneOf": st.lists(inner, max_size=2),
        "allOf": st.lists(inner, max_size=2),
        "not": inner,
        "if": inner,
        "enum": st.lists(JSON, max_size=3),
        "const": JSON,
        "pattern": PATTERNS,
        "format": st.sampled_from(["date", "uuid", "email", "odd"]),
        "minLength": st.integers(-1, 5),
        "maxLength": st.integers(-1, 99999),
        "minimum": st.integers(-5, 5),
        "maximum": st.floats(-5, 1e30),
        "multipleOf": st.sampled_from([0, 0.1, 3, -1]),
        "minItems": st.integers(-1, 3),
        "maxItems": st.integers(0, 10**6),
        "uniqueItems": st.booleans(),
        "propertyNames": inner,
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "http://127.0.0.1/x"]),
        "$defs": named,
        "description": st.text(max_size=3),
        "x-odd": JSON,
    }
    sound = st.fixed_dictionaries({}, optional=known)
    return sound | st.dictionaries(st.sampled_from(sorted(known)), JSON, max_size=2)


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | _keywords(JSON), _keywords, max_leaves=3
)
GRAMMARS = st.sampled_from(
    ['start: "a"', "start: x", "root ::= [a-z]+", "root ::= x", "start: start", "%json {", "::="]
) | st.text(max_size=8)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g", "weather"])},
                optional={"parameters": SCHEMAS.filter(lambda s: isinstance(s, dict))}
                | {"strict": st.booleans()},
            ),
        }
    ),
    min_size=1,
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "response_format": st.one_of(
        st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
        st.fixed_dictionaries(
            {
                "type": st.just("json_schema"),
                "json_schema": st.fixed_dictionaries({"name": st.just("x"), "schema": SCHEMAS}),
            }
        ),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["regex", "odd"])}, optional={"regex": PATTERNS}
        ),
    ),
    "guided_json": SCHEMAS,
    "guided_regex": PATTERNS,
    "guided_choice": st.lists(st.text(max_size=3), max_size=3),
    "guided_grammar": GRAMMARS,
    "structured_outputs": st.dictionaries(
        st.sampled_from(["json", "regex", "choice", "grammar", "odd"]),
        SCHEMAS | PATTERNS,
        max_size=2,
    ),
}
"""Body fields that demand a form."""
