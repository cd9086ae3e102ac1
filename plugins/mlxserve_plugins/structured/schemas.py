"""Make a client's JSON schema one that llguidance takes, and whose replies come to an end."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import RequestError

GUIDANCE: Final = {
    "lenient": False,
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}
"""Unknown keywords are errors. White space is a space or none: with more a model may never stop."""

FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""What the library holds strings to. Any other format is an annotation, as the standard has it."""

ONE: Final = ("additionalProperties", "items", "contains", "not", "if", "then", "else")
SEVERAL: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
DEEPEST: Final = 200

UNMET: Final = (
    "not",
    "if",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
)
"""Keywords that the library cannot hold a reply to."""


ALONE: Final[Mapping[str, tuple[str, ...]]] = {
    "then": ("if",),
    "else": ("if",),
    "if": ("then", "else"),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
"""Keywords that say nothing without one of these."""

TRIVIAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "propertyNames": (True, {}, {"type": "string"}),
    "not": (False,),
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
"""Values with which a keyword is always true."""


@frozen
class Place:
    """Where in a schema something stands.

    Attributes:
        path: As in JavaScript, from the schema on.
        open: Whether other schemas may add properties to an object here.
        depth: How many schemas are around it.
    """

    path: str = ""
    open: bool = False
    depth: int = 0

    def inner(self, *names: str | int, opened: bool = False) -> "Place":
        """Return the place of a schema within this one."""
        steps = "".join(f"[{n}]" if isinstance(n, int) else f".{n}" for n in names)
        return Place(f"{self.path}{steps}", opened or self.open, self.depth + 1)


def prepared(schema: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Return a schema that a reply can be held to.

    Left out is what is always true, and what only annotates. An object whose schema declares
    properties and does not say whether it may have others has no others: every such reply follows
    the schema as it was, and ends.

    Args:
        schema: The client's.
        param: The request's field that it is in.

    Raises:
        RequestError: A keyword cannot be followed; it is named with its path.
    """
    shared = _has(schema, "allOf")
    try:
        found: dict[str, Any] = _schema(schema, Place(), param, shared)
    except RecursionError as error:
        raise _refusal(param, "the schema is nested too deeply") from error
    return found | {"x-guidance": GUIDANCE}


def closed(schema: Mapping[str, Any] | None, param: str) -> dict[str, Any]:
    """Return the schema of a function's arguments: an object, closed unless it says otherwise."""
    found = prepared({"type": "object", **(schema or {})}, param)
    if not _may_have_more(found):
        found.setdefault("additionalProperties", False)
    return found


def _may_have_more(schema: Mapping[str, Any]) -> bool:
    keys = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf")
    return any(key in schema for key in keys)


def _schema(schema: Any, place: Place, param: str, shared: bool) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    if place.depth > DEEPEST:
        raise _refusal(param, "the schema is nested too deeply")
    found = {key: value for key, value in schema.items() if not _is_idle(key, value, schema)}
    _name_keys(found)
    unmet = next((key for key in UNMET if key in found), None)
    if unmet is not None:
        where = (place.path or "its root")[:300]
        raise _refusal(param, f"`{param}` cannot be followed: {unmet!r} at {where}")
    opened = place.open or "allOf" in found or "$ref" in found
    found |= {
        key: _inner(key, value, place, param, shared, opened or bool(found.get("properties")))
        for key, value in found.items()
    }
    return found if opened else _closed(found)


def _inner(key: str, value: Any, place: Place, param: str, shared: bool, others: bool) -> Any:
    """Return a keyword's value, the schemas within it prepared."""
    if key in ONE:
        return _schema(value, place.inner(key), param, shared)
    if key in SEVERAL and isinstance(value, Sequence):
        adds = key == "allOf" or (key != "prefixItems" and others)
        return [
            _schema(one, place.inner(key, at, opened=adds), param, shared)
            for at, one in enumerate(value)
        ]
    if key in NAMED and isinstance(value, Mapping):
        adds = shared and key in ("$defs", "definitions")
        return {
            name: _schema(one, place.inner(key, name, opened=adds), param, shared)
            for name, one in value.items()
        }
    return value


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object without properties that nobody declared."""
    declared = schema.get("properties")
    if not isinstance(declared, Mapping) or not declared:
        return schema
    if "additionalProperties" in schema or _may_have_more(schema):
        return schema
    required = [name for name in schema.get("required") or () if isinstance(name, str)]
    more: dict[str, Any] = {name: {} for name in required if name not in declared}
    return {**schema, "properties": {**declared, **more}, "additionalProperties": False}


def _is_idle(key: str, value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a keyword is always true, or says nothing."""
    if key in ALONE:
        return not any(other in schema for other in ALONE[key])
    if key == "unevaluatedProperties" and value is False:
        return not _may_have_more(schema)
    if key in TRIVIAL:
        return any(value == one and type(value) is type(one) for one in TRIVIAL[key])
    return key == "format" and isinstance(value, str) and value not in FORMATS


def _name_keys(schema: dict[str, Any]) -> None:
    """Turn names of keys that follow a pattern into properties that do, where that is the same."""
    names = schema.get("propertyNames")
    if not isinstance(names, Mapping) or not set(names) <= {"type", "pattern"}:
        return
    pattern = names.get("pattern")
    if isinstance(pattern, str) and not schema.keys() & {"properties", "patternProperties"}:
        del schema["propertyNames"]
        schema["patternProperties"] = {pattern: schema.get("additionalProperties", {})}
        schema["additionalProperties"] = False


def _has(schema: Any, key: str, depth: int = 0) -> bool:
    if depth > DEEPEST:
        return True
    if isinstance(schema, Mapping):
        return key in schema or any(_has(one, key, depth + 1) for one in schema.values())
    if isinstance(schema, (list, tuple)):
        return any(_has(one, key, depth + 1) for one in schema)
    return False


def _refusal(param: str, message: str) -> RequestError:
    return RequestError(status=400, message=message, param=param)
