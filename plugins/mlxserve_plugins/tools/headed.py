"""Calls with the name in front of the arguments: Mistral, Kimi, DeepSeek, Hunyuan."""

import re
from typing import Final

from attrs import define

from mlxserve_plugins.tools.json_text import value
from mlxserve_plugins.tools.objects import ObjectCalls, after, closing
from mlxserve_plugins.tools.script import (
    NAME_LIMIT,
    BrokenError,
    CallScript,
    CutError,
    Steps,
)

_NAME: Final = re.compile(r"[\w.:/-]+")


@define(eq=False)
class HeadedCalls(CallScript):
    r"""Reads ``NAME SEPARATOR {...}``.

    Kimi K2: ``functions.NAME:N<|tool_call_argument_begin|>{...}``; the head is the call's id.
    DeepSeek V3.1: ``NAME<｜tool▁sep｜>{...}``. DeepSeek V3 and R1:
    ``function<｜tool▁sep｜>NAME\n```json\n{...}\n``` ```. Hunyuan: the same with ``<tool_sep>``.

    Attributes:
        separator: Stands between name and arguments.
    """

    separator: str = ""

    def read(self) -> Steps[None]:
        """Read one call."""
        head, _ = yield from self.until(self.separator, limit=NAME_LIMIT)
        head = head.strip()
        if (yield from self.space()) == "{":
            name, ident = _named(head)
        else:
            line, mark = yield from self.until("```", "\n{", limit=NAME_LIMIT)
            if mark == "```":
                yield from self.skip("json")
            else:
                self._at -= 1
            name, ident = line.strip(), ""
        yield from arguments(self, name, ident)
        yield from after(self)
        if (yield from self.skip("```")):
            self.settle()
        yield from closing(self)


def _named(head: str) -> tuple[str, str]:
    """Return name and id: Kimi's heads are ids, ``functions.NAME:N``."""
    if head.startswith("functions.") and ":" in head:
        return head.removeprefix("functions.").rpartition(":")[0], head
    return head, ""


def arguments(script: CallScript, name: str, ident: str = "") -> Steps[None]:
    """Read the arguments, an object, of a call whose name is known.

    Raises:
        BrokenError: That is no name, or no object follows.
    """
    if not _NAME.fullmatch(name) or (yield from script.space()) != "{":
        raise BrokenError
    script.open(name, ident)
    yield from value(script, script.say)
    script.close()


@define(eq=False)
class MistralCalls(ObjectCalls):
    """Reads ``NAME[ARGS]{...}``, with ``[CALL_ID]`` before ``[ARGS]`` or not; or an array.

    Tokenizer v11 and v13 have the first form, one marker for each call or one for several; older
    ones an array of objects (mistral-common, ``tokens/tokenizers/instruct.py``).
    """

    def read(self) -> Steps[None]:
        """Read calls up to something else."""
        if (yield from self.space()) in "[{":
            yield from self._array()
            return
        yield from self._headed()
        while (yield from self._another()):
            yield from self._headed()
        self.back()

    def _array(self) -> Steps[None]:
        if (yield from self.peek()) == "[":
            yield from self.take_char()
            yield from self._several("]")
        else:
            yield from self._several("")
        self.back()

    def _headed(self) -> Steps[None]:
        head, mark = yield from self.until("[CALL_ID]", "[ARGS]", "{", limit=NAME_LIMIT)
        ident = ""
        if mark == "[CALL_ID]":
            ident, mark = yield from self.until("[ARGS]", "{", limit=NAME_LIMIT)
        if mark == "{":
            self._at -= 1
        yield from arguments(self, head.strip(), ident.strip())

    def _another(self) -> Steps[bool]:
        try:
            yield from self.space()
            name = ""
            while (char := (yield from self.peek())) and _NAME.fullmatch(char):
                name += yield from self.take_char()
                if len(name) > NAME_LIMIT:
                    return False
            found = yield from self.comes("[ARGS]", "[CALL_ID]")
        except CutError:
            return False
        if not name or found is None:
            return False
        self.back()
        return True
