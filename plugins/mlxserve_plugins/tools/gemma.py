"""Calls of Gemma's: ``call:NAME{city:<|"|>Paris<|"|>,days:3}``, keys bare and strings in a mark.

google/gemma-4 and google/functiongemma-270m-it, chat templates, as mlx-lm's ``tool_parsers`` read
them. The mark is a token of its own, so that no text within a string is one.
"""

import json
from typing import Final

from attrs import define, field

from mlxserve_plugins.tools.json_text import string
from mlxserve_plugins.tools.marks import held_back
from mlxserve_plugins.tools.objects import closing
from mlxserve_plugins.tools.script import NAME_LIMIT, BrokenError, CallScript, CutError, Steps

DEEPEST: Final = 64


@define(eq=False)
class GemmaCalls(CallScript):
    """Reads calls up to something else; all of them stream.

    Attributes:
        quote: Stands at both ends of a string.
    """

    quote: str = field(kw_only=True)

    def read(self) -> Steps[None]:
        """Read calls, and the closing marker if it follows."""
        yield from self.space()
        while True:
            yield from self.expect("call:")
            head, _ = yield from self.until("{", limit=NAME_LIMIT)
            if not head.strip() or "\n" in head:
                raise BrokenError
            self._at -= 1
            self.open(head.strip())
            yield from self._value(0)
            self.close()
            try:
                yield from self.space()
            except CutError:
                self.back()
                return
            if (yield from self.comes("call:")) is None:
                break
        yield from closing(self)

    def _value(self, depth: int) -> Steps[None]:
        char = yield from self.space()
        if depth > DEEPEST:
            raise BrokenError
        if char in "{[":
            yield from self._container(char, depth)
        elif char == '"':
            yield from string(self, self.say)
        elif (yield from self.skip(self.quote)):
            yield from self._string()
        else:
            yield from self._word()

    def _container(self, opener: str, depth: int) -> Steps[None]:
        closer = "}" if opener == "{" else "]"
        self.say((yield from self.take_char()))
        first = True
        while (yield from self.space()) != closer:
            if not first:
                yield from self.expect(",")
                yield from self.space()
                self.say(", ")
            first = False
            if opener == "{":
                yield from self.skip(self.quote)
                key, _ = yield from self.until(":", limit=NAME_LIMIT)
                name = key.strip().removesuffix(self.quote)
                self.say(json.dumps(name, ensure_ascii=False) + ": ")
            yield from self._value(depth + 1)
        self.say((yield from self.take_char()))

    def _string(self) -> Steps[None]:
        ends = ((self.quote, ""),)
        self.say('"')
        while True:
            end = self._text.find(self.quote, self._at)
            safe = end if end >= 0 else len(self._text) - held_back(self._text[self._at :], ends)
            text, self._at = self._text[self._at : safe], safe
            self.say(json.dumps(text, ensure_ascii=False)[1:-1])
            if end >= 0:
                self._at += len(self.quote)
                self.say('"')
                return
            yield from self.more()

    def _word(self) -> Steps[None]:
        word = ""
        while (yield from self.peek()) not in ",}]":
            word += yield from self.take_char()
        word = word.strip()
        try:
            found = json.loads(word)
            json.dumps(found, allow_nan=False)
        except (ValueError, RecursionError):
            found = word
        self.say(json.dumps(found, ensure_ascii=False))
