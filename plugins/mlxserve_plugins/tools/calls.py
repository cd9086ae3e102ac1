"""From the text of a tool call to the function's name and its arguments."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlxserve_plugins.tools.states import ReadCall


def calls_in(
    text: str, tools: Sequence[Mapping[str, Any]] | None, read_call: ReadCall | None
) -> tuple[Mapping[str, Any], ...] | None:
    """Return the calls that ``text`` spells, or ``None`` if it spells none.

    The model's own reader is asked first, then JSON: a call that was forced is JSON, whatever the
    model's own form.
    """
    for read in (read_call, _read_json):
        if read is None:
            continue
        try:
            return tuple(_plain(call) for call in _several(read(text, tools)))
        except Exception:  # it reads what a model wrote, and may raise anything
            continue
    return None


def _read_json(text: str, _: object) -> Any:
    return json.loads(text)


def _several(found: Any) -> Iterable[Any]:
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise ValueError("no call")
    return calls


def _plain(call: Any) -> dict[str, str]:
    name, arguments = call["name"], call.get("arguments")
    if not isinstance(name, str) or not name:
        raise TypeError("a function has a name")
    if isinstance(arguments, str):  # some templates render them as text
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        if arguments is not None:
            raise TypeError("arguments are an object")
        arguments = {}
    return {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False, allow_nan=False)}
