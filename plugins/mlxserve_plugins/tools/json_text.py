"""Read one JSON value from text that arrives in pieces, and say it as it comes."""

import re
from collections.abc import Callable
from typing import Any, Final

from mlxserve_plugins.tools.script import BrokenError, CallScript, Sink, Steps

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_WORD: Final = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES: Final = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WORDS: Final = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
"""Python's constants are what some models write."""

_HIGH: Final = range(0xD800, 0xDC00)
_LOW: Final = range(0xDC00, 0xE000)
_LOST: Final = "\\ufffd"
"""Half of a surrogate pair is no character."""


def value(script: CallScript, say: Sink) -> Steps[None]:
    """Read one value; say its text as valid JSON.

    Control characters within strings are escaped, which many models forget. Nothing else changes.

    Raises:
        BrokenError: It is no JSON.
        CutError: The text ended within it.
    """
    closers: list[str] = []
    while True:
        char = yield from script.space()
        yield from _one(script, char, closers, say)
        # After a value: close what ends here, and go on to the next one.
        while closers:
            char = yield from script.space()
            if char == closers[-1]:
                say((yield from script.take_char()))
                closers.pop()
            elif char == ",":
                yield from script.take_char()
                say(", ")
                if closers[-1] == "}":
                    yield from script.space()
                    yield from _key(script, say)
                break
            else:
                raise BrokenError
        if not closers:
            return


def _one(script: CallScript, char: str, closers: list[str], say: Sink) -> Steps[None]:
    """Read a scalar whole, or step into containers down to the first one."""
    while char in "{[":
        say((yield from script.take_char()))
        closer = "}" if char == "{" else "]"
        char = yield from script.space()
        if char == closer:
            say((yield from script.take_char()))
            return
        closers.append(closer)
        if closer == "}":
            yield from _key(script, say)
            char = yield from script.space()
    if char == '"':
        yield from string(script, say)
    else:
        yield from _word(script, say)


def _key(script: CallScript, say: Sink) -> Steps[None]:
    if (yield from script.peek()) != '"':
        raise BrokenError
    yield from string(script, say)
    if (yield from script.space()) != ":":
        raise BrokenError
    yield from script.take_char()
    say(": ")


def string(script: CallScript, say: Sink) -> Steps[None]:
    """Read a string with its quotes."""
    yield from script.expect('"')
    say('"')
    while True:
        say((yield from match(script, _PLAIN)))
        if not script.ahead:
            continue
        char = yield from script.take_char()
        if char == '"':
            say('"')
            return
        if char == "\\":
            yield from _escape(script, say)
        else:
            say(_ESCAPES.get(char) or f"\\u{ord(char):04x}")


def match(script: CallScript, pattern: "re.Pattern[str]") -> Steps[str]:
    """Return what ``pattern``, which may match nothing, finds in the text that is there."""
    yield from script.peek()
    return script.matched(pattern)


def _escape(script: CallScript, say: Sink) -> Steps[None]:
    char = yield from script.take_char()
    if char in '"\\/bfnrt':
        say(f"\\{char}")
    elif char == "u":
        yield from _unicode(script, say)
    elif char == "\n":  # a line that goes on, as in a shell
        say("\\n")
    else:
        raise BrokenError


def _unicode(script: CallScript, say: Sink) -> Steps[None]:
    code = yield from _hex(script)
    number = int(code, 16)
    if number in _HIGH and (yield from script.skip("\\u")):
        low = yield from _hex(script)
        if int(low, 16) in _LOW:
            say(f"\\u{code}\\u{low}")
            return
        say(_LOST)
        code, number = low, int(low, 16)
    say(_LOST if number in _HIGH or number in _LOW else f"\\u{code}")


def _hex(script: CallScript) -> Steps[str]:
    found = ""
    for _ in range(4):
        found += yield from script.take_char()
    if not _HEX.fullmatch(found):
        raise BrokenError
    return found


def _word(script: CallScript, say: Sink) -> Steps[None]:
    found = yield from match(script, _WORD)
    while not script.ahead:
        yield from script.more()
        found += script.matched(_WORD)
    if found in _WORDS:
        say(_WORDS[found])
    elif _NUMBER.fullmatch(found):
        say(found)
    else:
        raise BrokenError


def collected(script: CallScript) -> Steps[str]:
    """Return the text of one value."""
    found: list[str] = []
    yield from value(script, found.append)
    return "".join(found)


def parsed(script: CallScript, parse: Callable[[str], Any]) -> Steps[Any]:
    """Return one value as Python's."""
    text = yield from collected(script)
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise BrokenError from error
