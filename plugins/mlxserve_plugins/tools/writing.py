"""Grammars of one call in each family's own form, in llguidance's dialect of Lark."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlxserve_plugins.tools.tagged import Tags, types_of

Functions = Sequence[Mapping[str, Any]]
Spell = Callable[[str], str]
Rules = Sequence[str]

BREAK: Final = '"\\n"?'
ROOT_KEYS: Final = ("$defs", "definitions", "x-guidance")


def nothing(functions: Functions, spell: Spell, start: str, end: str) -> Rules | None:
    """Return none: the form has no grammar of its own."""
    del functions, spell, start, end
    return None


def objects(
    name: str = "name", arguments: str = "arguments", *, array: bool = False, extra: str = ""
) -> Callable[..., Rules]:
    """Return what writes a call as an object.

    Args:
        name: The name's key.
        arguments: The arguments' key.
        array: Whether it stands in an array.
        extra: Members before the name, as JSON with a comma at the end.
    """
    opening, closing = ('"["', '"]"') if array else ("", "")

    def write(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
        rules = [f"call: {_around(spell, start, f'{opening} one {closing}', end)}", _one(functions)]
        for at, function in enumerate(functions):
            spelt = json.dumps(function["name"], ensure_ascii=False)
            head = literal(f'{{{extra}"{name}": {spelt}, "{arguments}": ')
            rules.append(f'one_{at}: {head} arguments_{at} "}}"')
            rules.append(f"arguments_{at}: {in_json(function['parameters'])}")
        return rules

    return write


def headed(separator: str, *, before: str = "", after: str = "", fence: bool = False) -> Any:
    """Return what writes a name, ``separator`` and the arguments.

    Args:
        separator: Stands after the name.
        before: Stands before the name.
        after: Stands between the name and ``separator``.
        fence: Whether ``before`` ends with the separator, and the arguments are a block of code.
    """

    def write(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
        rules = [f"call: {_around(spell, start, 'one', end, bare=True)}", _one(functions)]
        for at, function in enumerate(functions):
            name = function["name"]
            if fence:
                fenced = literal(f"{name}\n```json\n")
                head = f"{literal(before)} {spell(separator)} {fenced}"
                tail = literal("\n```")
            else:
                head = f"{literal(f'{before}{name}{after}')} {spell(separator)}"
                tail = ""
            rules.append(f"one_{at}: {head} arguments_{at} {tail}")
            rules.append(f"arguments_{at}: {in_json(function['parameters'])}")
        return rules

    return write


def harmony(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
    """Return a message to a function, on the commentary channel."""
    del start, end
    rules = [f"call: one {spell('<|call|>')}", _one(functions)]
    for at, function in enumerate(functions):
        to = literal(f"commentary to=functions.{function['name']} ")
        constrain = f'{spell("<|constrain|>")} "json" {spell("<|message|>")}'
        rules.append(f"one_{at}: {spell('<|channel|>')} {to} {constrain} arguments_{at}")
        rules.append(f"arguments_{at}: {in_json(function['parameters'])}")
    return rules


def python(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
    """Return a list of one call with named arguments, JSON values in Python's place."""
    listed = '"[" one "]"'
    rules = [f"call: {_around(spell, start, listed, end, bare=True)}", _one(functions)]
    for at, function in enumerate(functions):
        head = literal(f"{function['name']}(")
        rules.append(f"one_{at}: {head} given_{at} {literal(')')}")
        named, made = _members(at, function["parameters"], lambda key, _: literal(f"{key}="))
        rules += [f"given_{at}: {_listed(named, literal(', '))}", *made]
    return rules


def tagged(tags: Tags, *, key: Callable[[str, bool], str] | None = None) -> Any:
    """Return what writes arguments between tags.

    Args:
        tags: The family's.
        key: Returns the head of an argument, from its name and whether it is a string.
    """
    quote = '"' if tags.call.endswith("name=") else ""
    pad = "\n" if tags.padded else ""

    def head(name: str, text: bool) -> str:
        return key(name, text) if key else f"{tags.param}{quote}{name}{quote}{tags.param_head_end}"

    def write(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
        line = literal("\n")
        rules = [f"call: {_around(spell, start, 'one', end)}", _one(functions)]
        for at, function in enumerate(functions):
            opened = f"{tags.call}{quote}{function['name']}{quote}{tags.call_head_end}"
            rules.append(
                f"one_{at}: {spell(opened)} {line} given_{at} {spell(tags.call_end)} {BREAK}"
            )
            schema = function["parameters"]
            named, made = _tagged_members(at, schema, head, spell, tags.param_end, pad)
            rules += [f"given_{at}: {_in_order(named)}", *made]
        return rules

    return write


def keyed(tags: Tags) -> Any:
    """Return what writes a name and pairs of keys and values."""

    def head(name: str, text: bool) -> str:
        del text
        return f"{tags.param}{name}{tags.param_head_end}\n{tags.value}"

    def write(functions: Functions, spell: Spell, start: str, end: str) -> Rules:
        rules = [f"call: {spell(start)} one {spell(end)}", _one(functions)]
        for at, function in enumerate(functions):
            name = literal(f"{function['name']}\n")
            rules.append(f"one_{at}: {name} given_{at}")
            schema = function["parameters"]
            named, made = _tagged_members(at, schema, head, spell, tags.param_end, "")
            rules += [f"given_{at}: {_in_order(named)}", *made]
        return rules

    return write


def literal(text: str) -> str:
    """Return text as Lark's."""
    return json.dumps(text, ensure_ascii=False)


def in_json(schema: Mapping[str, Any]) -> str:
    """Return the rule of a JSON value."""
    return f"%json {json.dumps(schema)}"


def _around(spell: Spell, start: str, inner: str, end: str, *, bare: bool = False) -> str:
    gap = "" if bare or not start else BREAK
    opening = spell(start) if start else ""
    closing = f"{gap} {spell(end)}" if end else ""
    return f"{opening} {gap} {inner} {closing}"


def _one(functions: Functions) -> str:
    return "one: " + " | ".join(f"one_{at}" for at in range(len(functions)))


def _members(
    at: int, schema: Mapping[str, Any], head: Callable[[str, Any], str]
) -> tuple[list[tuple[str, bool]], list[str]]:
    """Return the rules' names, each with whether it must be there, and the rules."""
    required = set(schema.get("required") or ())
    named, rules = [], []
    for number, (key, inner) in enumerate((schema.get("properties") or {}).items()):
        name = f"member_{at}_{number}"
        named.append((name, key in required))
        rules.append(f"{name}: {head(key, inner)} {name}_value")
        rules.append(f"{name}_value: {in_json(_rooted(inner, schema))}")
    return named, rules


def _tagged_members(
    at: int,
    schema: Mapping[str, Any],
    head: Callable[[str, bool], str],
    spell: Spell,
    closer: str,
    pad: str,
) -> tuple[list[tuple[str, bool]], list[str]]:
    required = set(schema.get("required") or ())
    named, rules = [], []
    for number, (key, inner) in enumerate((schema.get("properties") or {}).items()):
        name = f"member_{at}_{number}"
        text = types_of(inner, schema) == {"string"}
        named.append((name, key in required))
        values = inner.get("enum") if text and isinstance(inner, Mapping) else None
        opening, close = spell(head(key, text) + pad), spell(pad + closer)
        if values:
            value = "(" + " | ".join(literal(one) for one in values) + f") {close}"
        elif text and close.startswith('"') and close.endswith('"') and '" ' not in close:
            rules.append(f"{name}_text[suffix={close}]: /(.|\\n)*/")
            value = f"{name}_text"
        elif text:
            rules.append(f"{name}_text: /(.|\\n)*/")
            value = f"{name}_text {close}"
        else:
            rules.append(f"{name}_value: {in_json(_rooted(inner, schema))}")
            value = f"{name}_value {close}"
        rules.append(f"{name}: {opening} {value} {BREAK}")
    return named, rules


def _rooted(inner: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a member's schema as one of its own: references go on to find what they name."""
    own = inner if isinstance(inner, Mapping) else {}
    return {**{key: root[key] for key in ROOT_KEYS if key in root}, **own}


def _in_order(named: Sequence[tuple[str, bool]]) -> str:
    return " ".join(name if must else f"{name}?" for name, must in named) or '""'


def _listed(named: Sequence[tuple[str, bool]], comma: str) -> str:
    """Return members with commas between them; what must be there comes first."""
    first = [name for name, must in named if must]
    rest = [name for name, must in named if not must]
    if first:
        more = " ".join(f"({comma} {name})?" for name in rest)
        return f" {comma} ".join(first) + f" {more}"
    ways = [
        " ".join([name, *(f"({comma} {other})?" for other in rest[at + 1 :])])
        for at, name in enumerate(rest)
    ]
    return " | ".join([*ways, '""'])
