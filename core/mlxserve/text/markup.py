"""How a model marks its thinking and its calls, as mlx-lm found it out."""

from typing import Any

from attrs import evolve

from mlxserve_hookspecs import Markup


def markup_of(wrapper: Any, special: frozenset[int]) -> Markup:
    """Return the markers of mlx-lm's ``TokenizerWrapper``.

    Args:
        wrapper: The tokenizer.
        special: Its special tokens.
    """
    thinks, calls = bool(wrapper.has_thinking), bool(wrapper.has_tool_calling)
    dropped = tuple(wrapper.structural_markers)
    edges = {state: tuple(pairs) for state, pairs in wrapper.response_transitions.items()}
    found = Markup(
        think_start=wrapper.think_start if thinks else "",
        think_end=wrapper.think_end if thinks else "",
        tool_start=wrapper.tool_call_start if calls else "",
        tool_end=wrapper.tool_call_end or "" if calls else "",
        parse_call=wrapper.tool_parser if calls else None,
        dropped=dropped,
        initial=wrapper.response_initial_state or "normal",
        transitions=edges,
    )
    return evolve(found, special=_has_special(wrapper, found, special))


def _has_special(wrapper: Any, markup: Markup, special: frozenset[int]) -> bool:
    ends = (markup.think_start, markup.think_end, markup.tool_start, markup.tool_end)
    inner = (marker for edges in markup.transitions.values() for marker, _ in edges)
    markers = [marker for marker in (*ends, *markup.dropped, *inner) if marker]
    return any(
        token in special
        for marker in markers
        for token in wrapper.encode(marker, add_special_tokens=False)
    )
