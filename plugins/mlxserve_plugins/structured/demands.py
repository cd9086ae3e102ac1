"""From what a client demands to a grammar, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import GenerationRequest, RequestError, TextCodec
from mlxserve_plugins.tools.states import TOOL_END, TOOL_START

LONGEST: Final = 200_000
"""Characters of a grammar. One that long is compiled in about 0.1 s, and the others wait."""

GUIDANCE: Final = {"lenient": False, "whitespace_pattern": r"( {1,4}|\t|\r?\n[ \t]{0,32})"}
"""Unknown keywords are errors. White space is what pretty printing needs: small models do not stop
by themselves."""

NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


@frozen
class Demand:
    """A form for a reply.

    Attributes:
        grammar: The reply's, in Lark.
        param: The field that demands it.
        after: What ends the model's thinking, which is free; empty if the reply begins at once.
    """

    grammar: str
    param: str
    after: str = ""


def demand_of(request: GenerationRequest, text: TextCodec) -> Demand | None:
    """Return what a request demands; ``None`` if that is not for this plugin.

    Raises:
        RequestError: It is malformed, or too large (status 400).
    """
    wanted = request.constraint or {}
    kind = wanted.get("type")
    thinks = text.opens_thinking(request.prompt)
    lead = "/\\n{0,2}/ " if thinks else ""
    if kind == "tool_choice":
        grammar, param = f"start: {lead}{_forced(wanted, text)}", "tools"
    elif kind in ("json_object", "json_schema"):
        schema = _schema(wanted)
        grammar, param = f"start: {lead}reply\nreply: {_json(schema)}\n", "response_format"
    else:
        return None
    if len(grammar) > LONGEST:
        message = f"`{param}` is too large: {len(grammar)} characters, of at most {LONGEST}"
        raise refusal(param, message)
    return Demand(grammar, param, text.markup.think_end if thinks else "")


def refusal(param: str, message: str) -> RequestError:
    """Return a status 400 that names a field."""
    return RequestError(status=400, message=message, param=param)


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    if wanted["type"] == "json_object":
        _check_keys(wanted, {"type", "schema"}, "response_format")
        schema, where = wanted.get("schema", {"type": "object"}), "response_format.schema"
    else:
        _check_keys(wanted, {"type", "json_schema"}, "response_format")
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


def _forced(wanted: Mapping[str, Any], text: TextCodec) -> str:
    """Return rules for one call of one of the functions, between the model's own markers."""
    functions = [tool["function"] for tool in wanted["tools"]]
    choice = wanted["tool_choice"]
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        functions = [one for one in functions if one["name"] == name][:1]
    markup = text.markup
    start, end = markup.tool_start, markup.tool_end
    if not start:
        start, end = TOOL_START, TOOL_END
    closing = f'"\\n"? {_marker(end, text)}' if end else ""
    calls = " | ".join(f"call_{at}" for at in range(len(functions)))
    rules = [f'{_marker(start, text)} "\\n"? ({calls}) {closing}', *_calls(functions)]
    return "\n".join(rules) + "\n"


def _calls(functions: Sequence[Mapping[str, Any]]) -> list[str]:
    rules = []
    for at, function in enumerate(functions):
        name = json.dumps(function["name"], ensure_ascii=False)
        head = _literal(f'{{"name": {name}, "arguments": ')
        parameters = function.get("parameters") or NO_PARAMETERS
        rules += [
            f'call_{at}: {head} arguments_{at} "}}"',
            f"arguments_{at}: {_json({'type': 'object', **parameters})}",
        ]
    return rules


def _json(schema: Mapping[str, Any]) -> str:
    try:
        return f"%json {json.dumps({**schema, 'x-guidance': GUIDANCE})}"
    except RecursionError as error:
        raise refusal("response_format", "the schema is nested too deeply") from error


def _marker(marker: str, text: TextCodec) -> str:
    """Return the rule of a marker: special tokens by number, for no text spells them."""
    parts: list[str] = []
    spelt = b""
    for token in text.encode(marker, add_special_tokens=False):
        if token not in text.special_token_ids:
            spelt += text.token_bytes(token)
            continue
        parts += [_literal(spelt.decode())] if spelt else []
        parts.append(f"<[{token}]>")
        spelt = b""
    if not parts:
        return _literal(marker)
    return " ".join([*parts, *([_literal(spelt.decode())] if spelt else [])])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
