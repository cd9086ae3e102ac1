"""The model's thinking: how it is asked for, and how it comes back in the next request."""

import base64
from typing import Any, Final

from mlxserve_hookspecs import Markup
from mlxserve_plugins.anthropic.bodies import (
    DisabledThinking,
    PromptBody,
    Thinking,
    ThinkingBlock,
)
from mlxserve_plugins.tools.thinking import ThinkingOrders, orders_of

SEAL: Final = "mlxserve."
"""What signatures begin with. Nothing is signed: clients drop thinking that has no signature."""

EFFORTS: Final = {"xhigh": "high", "max": "high"}
"""Efforts that templates do not know, as the nearest that they do."""


def orders_in(body: PromptBody, markup: Markup) -> ThinkingOrders:
    """Return what a request's wishes come to, for this model."""
    thinking, output = body.thinking, body.output_config
    wanted = None if thinking is None else not isinstance(thinking, DisabledThinking)
    return orders_of(
        markup,
        effort=None if output is None else output.effort,
        enabled=wanted,
        budget=getattr(thinking, "budget_tokens", None),
    )


def wishes_in(body: PromptBody) -> dict[str, Any]:
    """Return what is wished of the thinking, in the words that most chat templates know.

    Without ``thinking`` the template does what it does by itself.
    """
    thinking, output = body.thinking, body.output_config
    options: dict[str, Any] = {}
    if thinking is not None:
        wanted = not isinstance(thinking, DisabledThinking)
        options |= {"enable_thinking": wanted, "thinking": wanted}
    if output is not None and output.effort is not None:
        options["reasoning_effort"] = EFFORTS.get(output.effort, output.effort)
    return options


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
