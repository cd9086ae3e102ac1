"""Calls whose arguments stand between tags, one by one: Qwen3-Coder, MiniMax, DSML, GLM and kin."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_plugins.tools.marks import held_back
from mlxserve_plugins.tools.objects import closing
from mlxserve_plugins.tools.script import NAME_LIMIT, BrokenError, CallScript, CutError, Steps

_QUOTED: Final = re.compile(r'\s*"?([^"]*?)"?(?:\s+(.*))?', re.DOTALL)


@frozen(kw_only=True)
class Tags:
    r"""How a family writes one call.

    Attributes:
        call: Stands before the function's name.
        call_head_end: Stands after it.
        call_end: Closes the call.
        param: Stands before an argument's name.
        param_head_end: Stands after it.
        param_end: Closes the argument.
        padded: Whether a line break at either end of a value is the template's, not the value's.
        value: Stands between an argument's name and its value, after ``param_head_end``.
    """

    call: str
    call_head_end: str
    call_end: str
    param: str
    param_head_end: str
    param_end: str
    padded: bool = False
    value: str = ""


def schema_of(tools: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    """Return the parameters' schema of a function; empty if it is unknown."""
    for tool in tools or ():
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            found = function.get("parameters")
            return found if isinstance(found, Mapping) else {}
    return {}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """Return the JSON types that a schema allows; empty if it does not say."""
    if not isinstance(schema, Mapping) or depth > 8:  # noqa: PLR2004 - references may go round
        return frozenset()
    if isinstance(ref := schema.get("$ref"), str):
        return types_of(_resolved(ref, root), root, depth + 1)
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(one for one in named if isinstance(one, str))
    choices = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    if choices:
        return frozenset().union(*(types_of(one, root, depth + 1) for one in choices))
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return frozenset({"string"} if values and all(isinstance(v, str) for v in values) else ())


def _resolved(ref: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in ref.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def typed(text: str, types: frozenset[str]) -> Any:
    """Return the value that ``text`` spells, as far as its schema says what it is."""
    if types == {"string"}:
        return text
    bare = text.strip()
    for parse in (lambda one: json.loads(one, strict=False), ast.literal_eval):
        try:
            found = parse({"True": "true", "False": "false", "None": "null"}.get(bare, bare))
            json.dumps(found, allow_nan=False)
        except Exception:
            continue
        if isinstance(found, str) or ("string" in types and not types & _kinds(found)):
            return text
        return found
    return text


def _kinds(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset({"null"})
    kinds: dict[type, set[str]] = {
        bool: {"boolean"},
        int: {"integer", "number"},
        float: {"number"},
        list: {"array"},
    }
    return frozenset(kinds.get(type(value), {"object"}))


@define(eq=False)
class TaggedCalls(CallScript):
    """Reads calls of the form of ``tags``; an argument that is a string streams as it comes.

    A closing tag within a value is text, unless what must follow a value follows it.

    Attributes:
        tags: The family's.
    """

    tags: Tags = field(kw_only=True)

    def read(self) -> Steps[None]:
        """Read calls up to the closing marker, or something else."""
        tags = self.tags
        yield from self.space()
        yield from self.expect(tags.call)
        while True:
            head, _ = yield from self.until(tags.call_head_end, limit=NAME_LIMIT)
            name, _ = _head(head)
            if not name or "\n" in name:
                raise BrokenError
            self.open(name)
            yield from self._arguments(schema_of(self.tools, name))
            self.close()
            try:
                yield from self.space()
            except CutError:
                self.back()
                return
            if not (yield from self.skip(tags.call)):
                break
        yield from closing(self)

    def _arguments(self, schema: Mapping[str, Any]) -> Steps[None]:
        tags, first = self.tags, True
        properties = schema.get("properties") or {}
        self.say("{")
        while True:
            yield from self.space()
            found = yield from self.skip(tags.param, tags.call_end)
            if found is None:
                raise BrokenError
            if found == tags.call_end:
                self.say("}")
                return
            head, _ = yield from self.until(tags.param_head_end, limit=NAME_LIMIT)
            if tags.value:
                yield from self.space()
                yield from self.expect(tags.value)
            name, attributes = _head(head)
            self.say(("" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
            first = False
            types = types_of(properties.get(name), schema)
            if 'string="true"' in attributes:
                types = frozenset({"string"})
            yield from self._value(types)

    def _value(self, types: frozenset[str]) -> Steps[None]:
        if types == {"string"}:
            self.say('"')
            yield from self._until_end(lambda text: self.say(_escaped(text)))
            self.say('"')
            return
        pieces: list[str] = []
        yield from self._until_end(pieces.append)
        found = typed("".join(pieces), types)
        self.say(json.dumps(found, ensure_ascii=False))

    def _until_end(self, say: Any) -> Steps[None]:
        if self.tags.padded:
            yield from self.skip("\n")
        held = ""
        tags = self.tags
        ends = ((tags.param_end, ""),)
        while True:
            end = self._text.find(tags.param_end, self._at)
            if end < 0:
                safe = len(self._text) - held_back(self._text[self._at :], ends)
                held = self._say_padded(held + self._text[self._at : safe], say)
                self._at = safe
                yield from self.more()
                continue
            held += self._text[self._at : end]
            self._at = end + len(tags.param_end)
            if (yield from self._value_ends()):
                say(held[:-1] if tags.padded and held.endswith("\n") else held)
                return
            held = self._say_padded(held + tags.param_end, say)

    def _say_padded(self, text: str, say: Any) -> str:
        """Say what is certain; return the line break that may be the template's."""
        keep = 1 if self.tags.padded and text.endswith("\n") else 0
        say(text[: len(text) - keep])
        return text[len(text) - keep :]

    def _value_ends(self) -> Steps[bool]:
        """Return whether what follows a value follows; step over nothing."""
        followers = [one for one in (self.tags.param, self.tags.call_end) if one]
        while True:
            ahead = self._text[self._at :].lstrip()
            if any(ahead.startswith(one) for one in followers):
                return True
            if ahead and not any(one.startswith(ahead) for one in followers):
                return False
            if self._ended:
                return True
            try:
                yield from self.more()
            except CutError:
                return True


@define(eq=False)
class KeyedCalls(TaggedCalls):
    """Reads ``NAME`` and then pairs of keys and values, up to the closing marker: GLM, LongCat."""

    def read(self) -> Steps[None]:
        """Read one call."""
        if (yield from self.space()) == "{":
            raise BrokenError
        head, _ = yield from self.until("<", limit=NAME_LIMIT)
        self._at -= 1
        name = head.strip()
        if not name or "\n" in name:
            raise BrokenError
        if (yield from self.comes(self.tags.param, self.tags.call_end)) is None:
            raise BrokenError
        self.open(name)
        yield from self._arguments(schema_of(self.tools, name))
        self.close()


def _head(text: str) -> tuple[str, str]:
    """Return the name and what stands after it: ``city`` of ``city" string="true``."""
    found = _QUOTED.fullmatch(text)
    return (found[1].strip(), found[2] or "") if found else (text.strip(), "")


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
