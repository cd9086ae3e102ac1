"""The model's thinking: how it is asked for, and how it comes back in the next request."""

import base64
from collections.abc import Mapping
from typing import Any, Final

from mlxserve_plugins.anthropic.bodies import (
    DisabledThinking,
    OutputConfig,
    Thinking,
    ThinkingBlock,
)

SEAL: Final = "mlxserve."
"""What signatures begin with. Nothing is signed: clients drop thinking that has no signature."""

EFFORTS: Final = {"xhigh": "high", "max": "high"}
"""Efforts that templates do not know, as the nearest that they do."""


def template_options(
    thinking: Thinking | None, output: OutputConfig | None, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a chat template is told of thinking, by the names that templates use.

    Without ``thinking`` the template does what it does by itself. What the client gave the
    template in so many words (``chat_template_kwargs``) comes first.
    """
    options: dict[str, Any] = {}
    if thinking is not None:
        wanted = not isinstance(thinking, DisabledThinking)
        options |= {"enable_thinking": wanted, "thinking": wanted}
    if output is not None and output.effort is not None:
        options["reasoning_effort"] = EFFORTS.get(output.effort, output.effort)
    return options | dict(given or {})


def is_omitted(thinking: Thinking | None) -> bool:
    """Return whether the client wants the thinking's signature only."""
    return thinking is not None and thinking.display == "omitted"


def signature_of(thought: str, *, omitted: bool) -> str:
    """Return a thinking block's signature; where the text is omitted, it holds the text."""
    return SEAL + (base64.b64encode(thought.encode()).decode() if omitted else "")


def thought_in(block: ThinkingBlock) -> str:
    """Return what a block of the history thought; empty where another server's seal hides it."""
    sealed = block.signature or ""
    if block.thinking or not sealed.startswith(SEAL):
        return block.thinking
    try:
        return base64.b64decode(sealed.removeprefix(SEAL), validate=True).decode()
    except ValueError:
        return ""
