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


def wishes_of(effort: Effort | None) -> dict[str, Any]:
    """Return an effort as a level and as the switches of templates that have one."""
    if effort is None:
        return {}
    thinks = effort not in OFF
    return {
        "reasoning_effort": LEVELS[effort],
        "enable_thinking": thinks,
        "thinking": thinks,
    }
