"""The states of a reply, and the markers that lead from one to another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from mlxserve_hookspecs import Markup

NORMAL: Final = "normal"
REASONING: Final = "reasoning"
TOOL: Final = "tool"

TOOL_START: Final = "<tool_call>"
TOOL_END: Final = "</tool_call>"
"""Hermes' markers, for a model that has none: it may know them, and can be made to use them."""

Edges: TypeAlias = Mapping[str, tuple[tuple[str, str], ...]]
ReadCall: TypeAlias = Callable[[str, Sequence[Mapping[str, Any]] | None], Any]


@frozen
class States:
    """What can follow what.

    Attributes:
        initial: Where a reply begins.
        edges: The markers that each state knows, and where they lead.
        read_call: The model's own reader of calls; ``None`` if it has none.
    """

    initial: str
    edges: Edges
    read_call: ReadCall | None = field(default=None)


def states_of(markup: Markup, *, tools: bool) -> States:
    """Return the states of replies of a model, as mlx-lm's own server has them.

    Args:
        markup: The model's markers.
        tools: Whether the request has tools; without any, nothing is a call.
    """
    edges: dict[str, list[tuple[str, str]]] = {}

    def add(state: str, marker: str, to: str) -> None:
        if marker:
            edges.setdefault(state, []).append((marker, to))

    add(NORMAL, markup.think_start, REASONING)
    add(REASONING, markup.think_end, NORMAL)
    for marker in markup.dropped:
        add(NORMAL, marker, NORMAL)
    for state, pairs in markup.transitions.items():
        for marker, to in pairs:
            if tools or to != TOOL:
                add(state, marker, to)
    if tools:
        _add_calls(add, markup)
    fixed = {state: tuple(pairs) for state, pairs in edges.items()}
    return States(markup.initial, fixed, markup.parse_call)


def _add_calls(add: Callable[[str, str, str], None], markup: Markup) -> None:
    start, end = markup.tool_start, markup.tool_end
    if not start:
        start, end = TOOL_START, TOOL_END
    own = any(to == TOOL for pairs in markup.transitions.values() for _, to in pairs)
    if not own:
        add(NORMAL, start, TOOL)
    if markup.think_start:
        add(REASONING, start, TOOL)
    add(TOOL, end, NORMAL)
