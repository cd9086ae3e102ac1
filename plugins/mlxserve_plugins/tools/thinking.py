"""What clients ask of a model's thinking, in the words of its template; and how much it thought.

For the API surfaces: ``orders_of`` before a request, ``Meter`` over its tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, evolve, field, frozen

from mlxserve_hookspecs import Markup, TextCodec

BUDGETS: Final = {"minimal": 256, "low": 1024, "medium": 4096}
"""Tokens of thinking for an effort, where a template knows no efforts; more effort has no limit."""

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
TEMPLATES_EFFORTS: Final = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Templates that know efforts know low, medium and high."""

ON_OFF: Final = ("enable_thinking", "thinking", "reasoning")


@frozen(kw_only=True)
class ThinkingOrders:
    """What a request's wishes come to.

    Attributes:
        template: Variables for the chat template; what the client sent itself goes before.
        budget: Tokens after which the thinking is ended, for the request's constraint as
            ``thinking_budget``; ``None``: it may take its time.
    """

    template: Mapping[str, Any] = field(factory=dict)
    budget: int | None = None


def orders_of(
    markup: Markup,
    *,
    effort: str | None = None,
    enabled: bool | None = None,
    budget: int | None = None,
) -> ThinkingOrders:
    """Return what to tell template and engine.

    Args:
        markup: The model's.
        effort: One of ``EFFORTS``; anything else is taken as not said.
        enabled: Whether it is to think at all, where the client says so apart from effort.
        budget: Tokens, where the client names them.
    """
    effort = effort if effort in EFFORTS else None
    # A name says that the plugin is there which can end the thinking.
    endable = bool(markup.think_end and markup.thinking)
    if effort == "none" or budget == 0:
        enabled = False
    switches = [name for name in ON_OFF if name in markup.switches]
    has_efforts = "reasoning_effort" in markup.switches
    if enabled is False:
        template: dict[str, Any] = dict.fromkeys(switches, False)
        if has_efforts and not switches:
            template["reasoning_effort"] = "low"
        # Without a switch the thinking is closed as soon as it opens.
        return ThinkingOrders(template=template, budget=0 if endable else None)
    if enabled is None and effort is None and budget is None:
        return ThinkingOrders()
    template = dict.fromkeys(switches, True)
    if has_efforts and effort is not None:
        template["reasoning_effort"] = TEMPLATES_EFFORTS.get(effort, effort)
    elif budget is None and effort is not None:
        budget = BUDGETS.get(effort)
    if "thinking_budget" in markup.switches and budget is not None:
        template["thinking_budget"] = budget
    return ThinkingOrders(template=template, budget=budget if endable else None)


@frozen
class MeterState:
    """How far a meter is.

    Attributes:
        thinking: Whether the reply is within the thinking.
        count: Tokens of thinking so far, the marker that ends it included.
        tail: The end of what was spelt, as much as a marker may need.
    """

    thinking: bool = False
    count: int = 0
    tail: bytes = b""


@define(eq=False)
class Meter:
    """Counts the tokens of a reply that are thinking, exactly, however they come.

    Attributes:
        text: Says what tokens spell, and which markers stand around thinking.
        reasoning: Whether the reply begins within it.
    """

    text: TextCodec
    reasoning: bool = False
    state: MeterState = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin where the prompt ended."""
        self.state = MeterState(thinking=self.reasoning)

    @property
    def count(self) -> int:
        """Tokens of thinking so far."""
        return self.state.count

    @property
    def thinking(self) -> bool:
        """Whether the reply is within its thinking."""
        return self.state.thinking

    def add(self, tokens: Sequence[int]) -> None:
        """Learn the next tokens."""
        markup = self.text.markup
        if not markup.think_end:
            return
        for token in tokens:
            thinking = self.state.thinking
            mark = (markup.think_end if thinking else markup.think_start).encode()
            seen = self.state.tail + self.text.token_bytes(token)
            at = seen.find(mark) if mark else -1
            self.state = evolve(
                self.state,
                count=self.state.count + thinking,
                thinking=thinking != (at >= 0),
                tail=seen[at + len(mark) :] if at >= 0 else seen[-max(len(mark), 1) :],
            )
