"""Calls of forms that a function reads whole: mlx-lm's parsers, and MiniMax M3's."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from mlxserve_plugins.tools.script import BrokenError, CallScript, CutError, Steps
from mlxserve_plugins.tools.tagged import schema_of, typed, types_of

Parse = Callable[[str, Sequence[Mapping[str, Any]] | None], Any]

SPACE_M3: Final = "]<]minimax[>["
"""Stands before every tag of MiniMax M3; one token, so that no text spells a tag."""


@define(eq=False)
class WholeCalls(CallScript):
    """Reads up to the closing marker and asks a function.

    Attributes:
        parse: Returns a call, or a list of them; may raise anything.
    """

    parse: Parse = field(kw_only=True)

    def read(self) -> Steps[None]:
        """Read to the marker; without one, or without its coming, to the end of the reply."""
        text = yield from self._body()
        try:
            found = self.parse(text, self.tools)
        except Exception as error:  # it reads what a model wrote
            raise BrokenError from error
        calls = found if isinstance(found, list) else [found]
        if not calls:
            raise BrokenError
        for call in calls:
            if not isinstance(call, Mapping):
                raise BrokenError
            self.whole(call.get("name"), call.get("arguments"), call.get("id"))
        self.settle()

    def _body(self) -> Steps[str]:
        try:
            while not self.end:
                yield from self.more()
            text, _ = yield from self.until(self.end)
        except CutError:
            text = self.rest
            self._at = len(self._text)
        return text


def parse_m3(text: str, tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the calls of a MiniMax M3 block.

    Its template's ``to_xml`` writes mappings as ``<key>...</key>``, arrays as ``<item>...</item>``
    and the rest as text, ``]<]minimax[>[`` before each tag (ml-explore/mlx-lm#1416).
    """
    pieces = [piece.strip("\n") for piece in text.split(SPACE_M3)]
    calls: list[dict[str, Any]] = []
    at = 0
    while at < len(pieces):
        opened = re.fullmatch(r'<invoke name="([^"]+)">\s*', pieces[at])
        at += 1
        if opened is None:
            if pieces[at - 1].strip():
                raise BrokenError
            continue
        schema = schema_of(tools, opened[1])
        found, at = _element(pieces, at, "</invoke>", schema, schema)
        calls.append({"name": opened[1], "arguments": found if isinstance(found, dict) else {}})
        at += 1
    return calls


def _element(
    pieces: list[str], at: int, closer: str, schema: Any, root: Mapping[str, Any]
) -> tuple[Any, int]:
    """Return the children from ``at`` on as a mapping or a list, and where they end."""
    pairs: list[tuple[str, Any]] = []
    while not pieces[at].startswith(closer):
        opened = re.match(r"<([^<>/]+)>", pieces[at])
        if opened is None:
            raise BrokenError
        name, text = opened[1], pieces[at][opened.end() :]
        inner = _inner(schema, name)
        at += 1
        if pieces[at].startswith(f"</{name}>"):
            pairs.append((name, typed(text, types_of(inner, root))))
        else:
            value, at = _element(pieces, at, f"</{name}>", inner, root)
            pairs.append((name, value))
        at += 1
    names = {name for name, _ in pairs}
    if names == {"item"}:
        return [value for _, value in pairs], at
    return dict(pairs), at


def _inner(schema: Any, name: str) -> Any:
    if not isinstance(schema, Mapping):
        return {}
    if name == "item" and "items" in schema:
        return schema["items"]
    return (schema.get("properties") or {}).get(name, {})
