"""How much a model thinks, in the words that chat templates know."""

from collections.abc import Mapping
from typing import Any, Final

from mlxserve_plugins.responses.bodies import Effort

LEVELS: Final[Mapping[str, str]] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""The three levels that templates with levels have (gpt-oss and others)."""

OFF: Final = frozenset({"none", "minimal"})


def template_options(effort: Effort | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the template is told: the levels, and the switches of those that have one.

    Args:
        effort: The request's, if it has one.
        given: ``chat_template_kwargs``, which beat it.
    """
    if effort is None:
        return dict(given or {})
    thinks = effort not in OFF
    told = {
        "reasoning_effort": LEVELS[effort],
        "enable_thinking": thinks,
        "thinking": thinks,
    }
    return {**told, **(given or {})}
