"""What every surface of chats does with thinking and with stop strings."""

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from mlxserve_hookspecs import Markup, StopConditions
from mlxserve_plugins.tools.thinking import ThinkingOrders


def template_options(
    said: Mapping[str, Any], orders: ThinkingOrders, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a chat template is told besides messages and tools.

    Args:
        said: The request's wishes in the words of templates that nobody knows.
        orders: The same in the words of this model's.
        given: What the client tells the template in so many words: it goes before.
    """
    return {**said, **orders.template, **(given or {})}


def stops_in_answers(
    stop: StopConditions, markup: Markup, *, thinks: bool, tools: bool, skips_special: bool
) -> StopConditions:
    """Return ``stop`` with strings that end answers, and neither thinking nor calls.

    Args:
        stop: When a reply ends.
        markup: The model's.
        thinks: Whether the reply begins within the thinking.
        tools: Whether the request has tools.
        skips_special: Whether special tokens are left out of the text.
    """
    if not stop.strings or (skips_special and markup.special):  # markers that nobody would see
        return stop
    pairs = [(markup.think_start, markup.think_end)]
    if tools:
        pairs.append((markup.tool_start, markup.tool_end))
    skip = tuple(pair for pair in pairs if pair[0])
    return evolve(stop, skip=skip, within_skip=thinks and bool(markup.think_start))
