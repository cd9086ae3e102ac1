"""From what a client demands to a grammar, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping, Sequence, Set
from functools import cache, partial
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import GenerationRequest, RequestError, TextCodec
from mlxserve_plugins.structured.schemas import closed, prepared
from mlxserve_plugins.tools.choosing import form_of
from mlxserve_plugins.tools.families import HERMES
from mlxserve_plugins.tools.writing import BREAK

LONGEST: Final = 200_000
"""Characters of a grammar. One that long is compiled in about 0.1 s, and the others wait."""

OURS: Final = frozenset(("type", "param", "thinking_budget", "calls"))
"""Keys of a demand that are no client's."""

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
        call: The grammar of a call, ``trigger`` and all, that may come in the answer's place, where
            answers have a header.
        heads: What a call without a marker begins with, one for each function.
        bare: The grammar of such a call.
        lenient: Whether calls are free where they cannot be held to the grammar.
    """

    grammar: str
    param: str
    after: str = ""
    trigger: str = ""
    call: str = ""
    heads: tuple[bytes, ...] = ()
    bare: str = ""
    lenient: bool = False


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
    size = len(demand.grammar) + len(demand.call) + len(demand.bare)
    if size > LONGEST:
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
    offered = wanted.get("calls")
    if not offered:
        return Demand(f"start: {lead}reply\n{rule}", param, after)
    calls = _rules(_given(offered["tools"], lenient=True), text)
    if header:
        # A call has a header of its own.
        call = "\n".join(["start: call", *calls, ""])
        trigger = text.markup.tool_start
        return Demand(f"start: {lead}reply\n{rule}", param, after, trigger, call)
    several = "call" if offered.get("parallel") is False else f"call ({BREAK} call)*"
    start = f"start: {lead}(reply | calls)\n{rule}calls: {several}"
    return Demand("\n".join([start, *calls, ""]), param, after)


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
        _check_keys(wanted, OURS | {"schema"}, "response_format")
        schema, where = wanted.get("schema", {"type": "object"}), "response_format.schema"
    else:
        _check_keys(wanted, OURS | {"json_schema"}, "response_format")
        form = wanted.get("json_schema")
        where = "response_format.json_schema"
        if not isinstance(form, Mapping):
            raise refusal(where, f"`{where}` must be an object")
        _check_keys(form, {"name", "description", "schema", "strict"}, where)
        schema, where = form.get("schema"), f"{where}.schema"
    if not isinstance(schema, Mapping):
        raise refusal(where, f"`{where}` must be an object: a JSON schema")
    return schema


def _check_keys(given: Mapping[str, Any], known: Set[str], where: str) -> None:
    strange = sorted(given.keys() - known)
    if strange:
        raise refusal(f"{where}.{strange[0]}", f"`{where}` has an unknown field {strange[0]!r}")


def _calls(wanted: Mapping[str, Any], text: TextCodec, *, thinks: bool) -> Demand:
    """Return rules for calls of the functions, in the model's own form: one, or as it likes."""
    choice, tools = wanted["tool_choice"], wanted["tools"]
    if choice == "auto":
        return _free_calls(tools, text, thinks=thinks)
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        tools = [one for one in tools if one["function"]["name"] == name][:1]
    after = text.markup.think_end if thinks else ""
    lead = f"{LEAD} " if thinks else ""
    rules = _rules(_given(tools), text)
    return Demand("\n".join([f"start: {lead}call", *rules, ""]), "tools", after)


def _free_calls(tools: Sequence[Mapping[str, Any]], text: TextCodec, *, thinks: bool) -> Demand:
    lenient = not any(tool["function"].get("strict") for tool in tools)
    given, form, trigger = _given(tools, lenient=True), form_of(text.markup), text.markup.tool_start
    heads = tuple(form.head(one["name"]).encode() for one in given) if form.bare else ()
    bare = form.grammar(given, partial(spelt, text=text), bare=True) if all(heads) else None
    return Demand(
        "\n".join(["start: call", *_rules(given, text), ""]) if trigger else "",
        "tools",
        text.markup.think_end if thinks else "",
        trigger,
        heads=heads if bare else (),
        bare="\n".join(["start: call", *bare, ""]) if bare else "",
        lenient=lenient,
    )


def _given(tools: Sequence[Mapping[str, Any]], *, lenient: bool = False) -> list[dict[str, Any]]:
    """Return functions with closed schemas of their arguments.

    Where calls are free, arguments of a function that is not ``strict`` are any object if its
    schema cannot be followed.
    """
    given = []
    for function in (tool["function"] for tool in tools):
        try:
            schema = closed(function.get("parameters"), "tools")
        except RequestError:
            if not lenient or function.get("strict"):
                raise
            schema = prepared({"type": "object"}, "tools")
        given.append({"name": function["name"], "parameters": schema})
    return given


def _rules(given: Sequence[Mapping[str, Any]], text: TextCodec) -> Sequence[str]:
    spell = cache(partial(spelt, text=text))
    found: Sequence[str] | None = form_of(text.markup).grammar(given, spell)
    if found is not None:
        return found
    # A form that only a function reads: every parser reads JSON between its markers too.
    return HERMES.write(given, spell, text.markup.tool_start, text.markup.tool_end) or ()


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
