"""From what a parser found in a reply to items, and to the events that tell of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import OutputDelta
from mlxserve_plugins.openai.answers import ContentLogprob
from mlxserve_plugins.responses.answers import AnyItem, ItemStatus, ReasoningItem
from mlxserve_plugins.responses.drafts import (
    CallDraft,
    CustomDraft,
    Draft,
    MessageDraft,
    SummaryDraft,
    ThinkingDraft,
)
from mlxserve_plugins.responses.events import Event
from mlxserve_plugins.responses.toolbox import Toolbox, custom_input


@define(eq=False)
class Writer:
    """Writes one response's items. At any time at most one of them is open.

    Attributes:
        box: Knows the tools by the names that the model calls.
        summary: Whether thinking is told as a summary.
        parallel: Whether there may be more than one call; else what follows the first is left out.
        items: Those that are whole.
    """

    box: Toolbox
    summary: bool = False
    parallel: bool = True
    items: list[AnyItem] = field(factory=list)
    _open: Draft | None = None
    _called: bool = False

    def take(self, delta: OutputDelta, logprobs: list[ContentLogprob]) -> Iterator[Event]:
        """Add what a parser found."""
        if self._called and not self.parallel:
            return
        if delta.reasoning:
            yield from self._think(delta.reasoning)
        if delta.content:
            yield from self._say(delta.content, logprobs)
        for call in delta.tool_calls:
            yield from self._call(call)
            if not self.parallel:
                return

    def end(self, status: ItemStatus) -> Iterator[Event]:
        """Close what is open; a whole reply that says and calls nothing is an empty message."""
        yield from self._close(status)
        if status == "completed" and all(isinstance(one, ReasoningItem) for one in self.items):
            yield from self._begin(MessageDraft(len(self.items)))
            yield from self._close(status)

    @property
    def unfinished(self) -> list[AnyItem]:
        """Every item, the open one as it is."""
        return [*self.items, *([self._open.item("incomplete")] if self._open else [])]

    def _think(self, text: str) -> Iterable[Event]:
        if not isinstance(self._open, ThinkingDraft | SummaryDraft):
            yield from self._close("completed")
            kind = SummaryDraft if self.summary else ThinkingDraft
            draft: ThinkingDraft | SummaryDraft = kind(len(self.items))
            yield from self._begin(draft)
        else:
            draft = self._open
        yield draft.more(text)

    def _say(self, text: str, logprobs: list[ContentLogprob]) -> Iterable[Event]:
        draft = self._open
        if not isinstance(draft, MessageDraft):
            yield from self._close("completed")
            draft = MessageDraft(len(self.items))
            yield from self._begin(draft)
        yield draft.more(text, logprobs)

    def _call(self, call: Mapping[str, Any]) -> Iterable[Event]:
        yield from self._close("completed")
        self._called = True
        tool, arguments = self.box.name_of(call["name"]), call["arguments"]
        draft: CallDraft | CustomDraft
        if tool.kind == "custom":
            draft, arguments = CustomDraft(len(self.items), tool), custom_input(arguments)
        else:
            draft = CallDraft(len(self.items), tool)
        yield from self._begin(draft)
        yield draft.more(arguments)
        yield from self._close("completed")

    def _begin(self, draft: Draft) -> Iterable[Event]:
        self._open = draft
        return draft.opening()

    def _close(self, status: ItemStatus) -> Iterable[Event]:
        draft, self._open = self._open, None
        if draft is None:
            return ()
        self.items.append(draft.item(status))
        return draft.closing(status)
