"""The fields by which clients of several servers demand a form, and what each demands.

A surface hands over the body's fields of these names; what it gets back is the request's
``constraint``. None of them is OpenAI's but ``response_format``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlxserve_hookspecs import RequestError

FIELDS: Final = (
    "response_format",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
)
"""vLLM's ``guided_*`` and ``structured_outputs``, SGLang's ``json_schema``, ``regex`` and ``ebnf``,
llama.cpp's ``grammar`` and ``json_schema``."""

KINDS: Final = ("json", "regex", "choice", "grammar", "json_object")
"""What ``structured_outputs`` may hold, one of them."""


def constraint_of(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the constraint that a body's fields demand; ``None`` if they demand nothing.

    Args:
        fields: The body's, by name; others than ``FIELDS``, and those that are ``None``, are left
            alone.

    Raises:
        RequestError: A field is malformed, or two demand a form (status 400).
    """
    found = {
        name: demand
        for name in FIELDS
        if fields.get(name) is not None and (demand := _demand(name, fields[name])) is not None
    }
    if len(found) > 1:
        first, second = list(found)[:2]
        raise _refusal(second, f"`{first}` and `{second}` both demand a form: send one of them")
    return next(iter(found.values()), None)


def _demand(name: str, value: Any) -> Mapping[str, Any] | None:
    if name == "response_format":
        return _response_format(value)
    if name == "structured_outputs":
        return _structured(value)
    kind = name.removeprefix("guided_")
    if kind in ("json", "json_schema"):
        return _schema(value, name)
    if kind == "ebnf":
        kind = "grammar"
    return _plain(kind, value, name)


def _response_format(value: Any) -> Mapping[str, Any] | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str):
        raise _refusal("response_format.type", "`response_format.type` must be a string")
    if kind == "text":
        return None
    if kind in ("regex", "grammar", "choice"):
        inner = value.get(kind, value.get("pattern"))
        return _plain(kind, inner, f"response_format.{kind}")
    return dict(value)


def _structured(value: Any) -> Mapping[str, Any] | None:
    where = "structured_outputs"
    if not isinstance(value, Mapping):
        raise _refusal(where, f"`{where}` must be an object")
    given = [kind for kind in KINDS if value.get(kind) not in (None, False)]
    if value.get("structural_tag") is not None:
        raise _refusal(f"{where}.structural_tag", f"`{where}.structural_tag` is not supported")
    if len(given) > 1:
        raise _refusal(where, f"`{where}` has {given[0]!r} and {given[1]!r}: send one of them")
    if not given:
        return None
    kind = given[0]
    if kind == "json_object":
        return {"type": "json_object", "param": f"{where}.json_object"}
    if kind == "json":
        return _schema(value["json"], f"{where}.json")
    return _plain(kind, value[kind], f"{where}.{kind}")


def _schema(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _refusal(where, f"`{where}` is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise _refusal(where, f"`{where}` must be a JSON schema")
    return {"type": "json_object", "schema": value, "param": where}


def _plain(kind: str, value: Any, where: str) -> Mapping[str, Any]:
    if kind == "choice":
        good = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        if not good or not all(isinstance(one, str) and one for one in value):
            raise _refusal(where, f"`{where}` must be a list of texts")
    elif not isinstance(value, str) or not value:
        raise _refusal(where, f"`{where}` must be a text")
    return {"type": kind, kind: value, "param": where}


def _refusal(param: str, message: str) -> RequestError:
    return RequestError(status=400, message=message, param=param)


def chat_constraint(
    fields: Mapping[str, Any],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    choice: Any = None,
    parallel: bool | None = None,
    budget: int | None = None,
) -> Mapping[str, Any] | None:
    """Return the constraint of a chat request, of whatever surface; ``None`` if it has none.

    Where calls are free, they are held to their grammar only if a function says ``strict`` or the
    client wants one call at most: a reply that is watched costs its decode-ahead. A reply that is
    to have a form may be calls in its place.

    Args:
        fields: The body's, as ``constraint_of`` takes them.
        tools: OpenAI's shape; ``None`` or empty if nothing may be called.
        choice: ``None``, ``auto``, ``none``, ``required``, or a function as OpenAI names it.
        parallel: Whether a reply may have several calls.
        budget: Tokens of thinking, as ``orders_of`` says.

    Raises:
        RequestError: As ``constraint_of``; or a form and a forced call are demanded (status 400).
    """
    demand = constraint_of(fields)
    calls = {"type": "tool_choice", "tool_choice": choice or "auto", "tools": tools}
    if choice not in (None, "auto", "none"):
        if demand is not None:
            message = (
                "a form of the reply and a `tool_choice` that forces a call exclude each other"
            )
            raise _refusal("tool_choice", message)
        demand = calls
    elif demand is not None and tools and choice != "none":
        demand = {**demand, "calls": {"tools": tools, "parallel": parallel is not False}}
    elif tools and choice != "none":
        strict = any(tool["function"].get("strict") is True for tool in tools)
        if strict or parallel is False:
            demand = {**calls, "parallel": parallel is not False}
    if budget is None:
        return demand
    return {**(demand or {"type": "thinking"}), "thinking_budget": budget}
