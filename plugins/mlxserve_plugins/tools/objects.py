"""Calls as JSON objects: ``{"name": ..., "arguments": {...}}``, one or an array of them."""

import json
from typing import Any, Final

from attrs import define, field

from mlxserve_plugins.tools.json_text import collected, parsed, value
from mlxserve_plugins.tools.script import BrokenError, CallScript, CutError, Steps

NAMES: Final = ("name", "tool_name", "function")
ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
IDS: Final = ("id", "tool_call_id")
KNOWN: Final = (*NAMES, *ARGUMENTS, *IDS, "type")


def names_of(tools: Any) -> frozenset[str]:
    """Return the names of the functions that may be called."""
    return frozenset(
        function["name"]
        for tool in tools or ()
        if isinstance(function := tool.get("function"), dict) and function.get("name")
    )


@define(eq=False)
class ObjectCalls(CallScript):
    """Reads an object, several that follow each other, or an array of objects.

    The arguments stream if the name comes before them, as all templates have it.

    Attributes:
        bare: No marker opened it, so that it may be anything: only a call of a known function is
            one.
    """

    bare: bool = False
    _held: str | None = None
    _name: str = ""
    _ident: str = ""
    _said: bool = field(default=False)

    def read(self) -> Steps[None]:
        """Read to the end of the last JSON value, and the closing marker if it follows."""
        if (yield from self.space()) == "[":
            yield from self.take_char()
            yield from self._several("]")
        else:
            yield from self._several("")
        yield from closing(self)

    def _several(self, closer: str) -> Steps[None]:
        yield from self._call()
        while True:
            char = yield from after(self)
            if closer and char == closer:
                yield from self.take_char()
                self.settle()
                return
            if char == "," or (char == ";" and not closer):
                yield from self.take_char()
                char = yield from self.space()
            elif closer:
                raise BrokenError
            if char != "{":
                if closer:
                    raise BrokenError
                return
            yield from self._call()

    def _call(self) -> Steps[None]:
        self._held, self._name, self._ident, self._said = None, "", "", False
        yield from self._object()
        if not self._said:
            self.whole(self._name, json.loads(self._held or "{}"), self._ident)

    def _object(self) -> Steps[None]:
        if (yield from self.space()) != "{":
            raise BrokenError
        yield from self.take_char()
        while (yield from self.space()) != "}":
            if (yield from self.space()) != '"':
                raise BrokenError
            key = yield from parsed(self, json.loads)
            if self.bare and key not in KNOWN:
                raise BrokenError
            if (yield from self.space()) != ":":
                raise BrokenError
            yield from self.take_char()
            yield from self._member(key)
            char = yield from (after(self) if self._said else self.space())
            if char == ",":
                yield from self.take_char()
            elif self._said and char != "}":
                return  # the arguments are complete: a brace that was forgotten harms nobody
            elif char != "}":
                raise BrokenError
        yield from self.take_char()
        if self._said:
            self.settle()

    def _member(self, key: str) -> Steps[None]:
        char = yield from self.space()
        if key == "function" and char == "{":
            yield from self._object()
        elif key in NAMES:
            self._name = yield from parsed(self, json.loads)
            self._check_name()
        elif key in ARGUMENTS and not self._said:
            yield from self._arguments(char)
        elif key in IDS:
            ident = yield from parsed(self, json.loads)
            self._ident = str(ident) if isinstance(ident, str) else ""
        else:
            yield from collected(self)

    def _check_name(self) -> None:
        if not isinstance(self._name, str) or not self._name:
            raise BrokenError
        if self.bare and self._name not in names_of(self.tools):
            raise BrokenError

    def _arguments(self, char: str) -> Steps[None]:
        if char == "{" and self._name:
            self.open(self._name, self._ident)
            yield from value(self, self.say)
            self.close()
            self._said = True
            return
        text = yield from collected(self)
        self._held = _object_text(text)


def _object_text(text: str) -> str:
    """Return arguments that some templates render as text within text."""
    try:
        found = json.loads(text)
        if isinstance(found, str):
            found = json.loads(found, strict=False)
    except (ValueError, RecursionError) as error:
        raise BrokenError from error
    if found is None:
        return "{}"
    if not isinstance(found, dict):
        raise BrokenError
    return json.dumps(found)


def after(script: CallScript) -> Steps[str]:
    """Return the character after white space; ``""`` at the end of the text."""
    try:
        return (yield from script.space())
    except CutError:
        return ""


def closing(script: CallScript) -> Steps[None]:
    """Step over white space and the closing marker, if that follows; else over nothing."""
    if not script.end:
        script.back()
        return
    yield from after(script)
    if (yield from script.skip(script.end)):
        script.settle()
    else:
        script.back()
