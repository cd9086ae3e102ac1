"""From what a client demands to a grammar, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import GenerationRequest, RequestError, TextCodec
from mlxserve_plugins.structured.schemas import closed, prepared
from mlxserve_plugins.tools.choosing import form_of
from mlxserve_plugins.tools.families import HERMES

LONGEST: Final = 200_000
"""Characters of a grammar. One that long is compiled in about 0.1 s, and the others wait."""

LEAD: Final = "/\\n{0,2}/"
"""What may stand between thinking and answer."""


@frozen
class Demand:
    """A form for a reply.

    Attributes:
        grammar: The reply's, in Lark; ``trigger`` and what follows it, if there is one. Empty
            if calls begin with nothing by which they could be told.
        param: The field that demands it.
        after: What ends the model's thinking, which is free; empty if the reply begins at once.
        trigger: What is free until this marker comes, and after each call again.
        single: Whether the reply ends with the first call.
    """

    grammar: str
    param: str
    after: str = ""
    trigger: str = ""
    single: bool = False


def demand_of(request: GenerationRequest, text: TextCodec) -> Demand | None:
    """Return what a request demands; ``None`` if that is not for this plugin.

    Raises:
        RequestError: It is malformed, or too large (status 400).
    """
    wanted = request.constraint or {}
    kind = wanted.get("type")
    thinks = text.opens_thinking(request.prompt)
    if kind == "tool_choice":
        demand = _calls(wanted, text, thinks=thinks)
    elif kind in ("json_object", "json_schema", "regex", "choice", "grammar"):
        demand = _answer(wanted, text, thinks=thinks)
    else:
        return None
    if len(demand.grammar) > LONGEST:
        size = len(demand.grammar)
        message = f"`{demand.param}` is too large: {size} characters, of at most {LONGEST}"
        raise refusal(demand.param, message)
    return demand


def refusal(param: str, message: str) -> RequestError:
    """Return a status 400 that names a field."""
    return RequestError(status=400, message=message, param=param)


def _answer(wanted: Mapping[str, Any], text: TextCodec, *, thinks: bool) -> Demand:
    kind, param = wanted["type"], str(wanted.get("param") or "response_format")
    # Where every answer has a header, thinking or not, the answer begins behind that.
    header = text.markup.answer_start
    after = header or (text.markup.think_end if thinks else "")
    if kind == "grammar":
        if after:
            grammar = _lark(wanted[kind], param, "answer")
            return Demand(f"start: {LEAD} answer\n{grammar}", param, after)
        return Demand(_lark(wanted[kind], param, "start"), param)
    if kind == "regex":
        rule = f"reply: {_regex(wanted[kind])}\n"
    elif kind == "choice":
        rule = "reply: " + " | ".join(_literal(one) for one in wanted[kind]) + "\n"
    else:
        schema = prepared(_schema(wanted), param)
        rule = f"reply: %json {json.dumps(schema)}\n"
    lead = f"{LEAD} " if after else ""
    return Demand(f"start: {lead}reply\n{rule}", param, after)


def _regex(pattern: str) -> str:
    return "/" + pattern.replace("/", "\\/").replace("\n", "\\n") + "/"


def _lark(grammar: str, param: str, start: str) -> str:
    """Return a grammar in Lark: llama.cpp's GBNF is turned into it; ``start`` is its first rule."""
    if "::=" in grammar:
        from llguidance.gbnf_to_lark import gbnf_to_lark  # noqa: PLC0415 - heavy

        try:
            grammar = gbnf_to_lark(grammar)
        except Exception as error:  # it reads what a client wrote
            raise refusal(param, f"`{param}` is no grammar: {str(error)[:200]}") from None
    if start == "start":
        return grammar
    return "\n".join(
        f"{start}:{line.removeprefix('start:')}" if line.startswith("start:") else line
        for line in grammar.splitlines()
    )


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    if wanted["type"] == "json_object":
        _check_keys(wanted, {"type", "schema", "param", "thinking_budget"}, "response_format")
        schema, where = wanted.get("schema", {"type": "object"}), "response_format.schema"
    else:
        _check_keys(wanted, {"type", "json_schema", "param", "thinking_budget"}, "response_format")
        form = wanted.get("json_schema")
        where = "response_format.json_schema"
        if not isinstance(form, Mapping):
            raise refusal(where, f"`{where}` must be an object")
        _check_keys(form, {"name", "description", "schema", "strict"}, where)
        schema, where = form.get("schema"), f"{where}.schema"
    if not isinstance(schema, Mapping):
        raise refusal(where, f"`{where}` must be an object: a JSON schema")
    return schema


def _check_keys(given: Mapping[str, Any], known: set[str], where: str) -> None:
    strange = sorted(given.keys() - known)
    if strange:
        raise refusal(f"{where}.{strange[0]}", f"`{where}` has an unknown field {strange[0]!r}")


def _calls(wanted: Mapping[str, Any], text: TextCodec, *, thinks: bool) -> Demand:
    """Return rules for one call of one of the functions, in the model's own form."""
    functions = [tool["function"] for tool in wanted["tools"]]
    choice = wanted["tool_choice"]
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        functions = [one for one in functions if one["name"] == name][:1]
    given = [
        {"name": one["name"], "parameters": closed(one.get("parameters"), "tools")}
        for one in functions
    ]

    @cache
    def spell(marker: str) -> str:
        return spelt(marker, text)

    form = form_of(text.markup)
    rules = form.grammar(given, spell)
    if rules is None:
        # A form that only a function reads: every parser reads JSON between its markers too.
        rules = HERMES.write(given, spell, text.markup.tool_start, text.markup.tool_end)
    after = text.markup.think_end if thinks else ""
    if choice == "auto" and not text.markup.tool_start:
        return Demand("", "tools")
    if choice == "auto":
        grammar = "\n".join(["start: call", *(rules or ())]) + "\n"
        single = wanted.get("parallel") is False
        return Demand(grammar, "tools", after, text.markup.tool_start, single)
    lead = f"{LEAD} " if thinks else ""
    return Demand("\n".join([f"start: {lead}call", *(rules or ())]) + "\n", "tools", after)


def spelt(marker: str, text: TextCodec) -> str:
    """Return the rule of a marker: special tokens by number, for no text spells them."""
    parts: list[str] = []
    plain = b""
    for token in text.encode(marker, add_special_tokens=False):
        if token not in text.special_token_ids:
            plain += text.token_bytes(token)
            continue
        parts += [_literal(plain.decode())] if plain else []
        parts.append(f"<[{token}]>")
        plain = b""
    if not parts:
        return _literal(marker)
    return " ".join([*parts, *([_literal(plain.decode())] if plain else [])])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
