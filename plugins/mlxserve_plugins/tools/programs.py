"""Calls as Python writes them, ``[weather(city="Paris")]``, or Llama's programs."""

import ast
import re
from typing import Any, Final

from attrs import define, field

from mlxserve_plugins.tools.objects import ObjectCalls, closing, names_of
from mlxserve_plugins.tools.script import BrokenError, CallScript, CutError, Steps

_NAME: Final = re.compile(r"[\w.-]*")
_PLAIN: Final = re.compile(r"""[^\[\](){}"'\\\n]*""")
_BUILTIN: Final = re.compile(r"\s*([\w.]+)\.call\((.*)\)\s*", re.DOTALL)
INTERPRETERS: Final = ("python", "ipython", "code_interpreter")
CONSTANTS: Final = {"true": True, "false": False, "null": None}
"""Templates render nested values as JSON."""


@define(eq=False)
class PythonCalls(CallScript):
    """Reads a list of calls: LFM2 between markers, Llama 4 bare or between markers.

    Attributes:
        bare: No marker opened it: only a call of a known function is one.
    """

    bare: bool = False

    def read(self) -> Steps[None]:
        """Read the list to its bracket."""
        if (yield from self.space()) != "[":
            raise BrokenError
        begun = self._at
        yield from self.take_char()
        yield from self._known()
        yield from self._list()
        source = self._text[begun : self._at]
        for name, arguments in calls_of(source):
            if self.bare and name not in names_of(self.tools):
                raise BrokenError
            self.whole(name, arguments)
        self.settle()
        yield from closing(self)

    def _known(self) -> Steps[None]:
        """Break early where no function is called, so that other text need not wait."""
        yield from self.space()
        begun = self._at
        self.matched(_NAME)
        while not self.ahead:
            yield from self.more()
            self.matched(_NAME)
        name = self._text[begun : self._at]
        if (yield from self.space()) != "(" or (self.bare and name not in names_of(self.tools)):
            raise BrokenError

    def _list(self) -> Steps[None]:
        depth, quote = 1, ""
        while depth:
            self.matched(_PLAIN)
            char = yield from self.take_char()
            if quote:
                if char == "\\":
                    yield from self.take_char()
                quote = "" if char == quote else quote
            elif char in "\"'":
                quote = char
            elif char in "([{":
                depth += 1
            elif char in ")]}":
                depth -= 1


@define(eq=False)
class LlamaCalls(ObjectCalls):
    """Reads what follows ``<|python_tag|>``: objects, ``NAME.call(...)``, or a program.

    A program is a call of the request's interpreter, if it has one (Llama 3.1 model card,
    "built-in tools").
    """

    program: bool = field(default=True)

    def read(self) -> Steps[None]:
        """Read objects, or all the rest of the reply."""
        if (yield from self.space()) == "{":
            yield from ObjectCalls.read(self)
            return
        try:
            while True:
                yield from self.more()
        except CutError:
            self._program(self._text)
        self._at = len(self._text)
        self.settle()

    def _program(self, source: str) -> None:
        builtin = _BUILTIN.fullmatch(source)
        if builtin:
            ((_, arguments),) = calls_of(f"[f({builtin[2]})]")
            self.whole(builtin[1], arguments)
            return
        known = [name for name in INTERPRETERS if name in names_of(self.tools)]
        if not known:
            raise BrokenError
        self.whole(known[0], {"code": source.strip()})


def calls_of(source: str) -> list[tuple[str, dict[str, Any]]]:
    """Return names and arguments of a list of calls.

    Raises:
        BrokenError: It is none.
    """
    try:
        tree = ast.parse(_escaped(source.strip()), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else []
        found = [_call(node) for node in calls]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenError from error
    if not found:
        raise BrokenError
    return found


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError(ast.dump(node))
    named = {word.arg: _constant(word.value) for word in node.keywords if word.arg is not None}
    if len(named) < len(node.keywords):
        raise ValueError(ast.dump(node))
    return ast.unparse(node.func), named


def _constant(node: ast.expr) -> Any:
    return ast.literal_eval(_Constants().visit(node))


class _Constants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        known = node.id in CONSTANTS
        return ast.copy_location(ast.Constant(CONSTANTS[node.id]), node) if known else node


def _escaped(source: str) -> str:
    """Return the source with line breaks within strings escaped, which Python does not allow."""
    found, quote, skip = [], "", False
    for char in source:
        if quote and char in "\n\r\x00" and not skip:
            found.append({"\n": "\\n", "\r": "\\r"}.get(char, "\\0"))
            continue
        found.append(char)
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
    return "".join(found)
