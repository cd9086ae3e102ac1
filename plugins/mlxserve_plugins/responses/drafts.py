"""Items while they are written: what begins them, what they grow by, what ends them."""

import uuid
from collections.abc import Iterable
from typing import Protocol

from attrs import define, field
from msgspec import UNSET

from mlxserve_plugins.openai.answers import ContentLogprob
from mlxserve_plugins.responses.answers import (
    AnyItem,
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    ReasoningItem,
    SummaryPart,
    TextPart,
    ThoughtPart,
)
from mlxserve_plugins.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    InputDelta,
    InputDone,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    SummaryAdded,
    SummaryDelta,
    SummaryDone,
    SummaryTextDone,
    TextDelta,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
)
from mlxserve_plugins.responses.toolbox import ToolName


class Draft(Protocol):
    """An item that is not whole yet."""

    def opening(self) -> Iterable[Event]:
        """Return what announces it."""

    def item(self, status: ItemStatus) -> AnyItem:
        """Return it as far as it has come."""

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return what ends it."""


@define(eq=False)
class MessageDraft:
    """A message.

    Attributes:
        at: Its place in the output; likewise of the others.
    """

    at: int
    id: str = field(factory=lambda: name("msg"))
    _texts: list[str] = field(factory=list)
    _logprobs: list[ContentLogprob] = field(factory=list)

    def opening(self) -> Iterable[Event]:
        """Return the empty message and its empty part."""
        empty = MessageItem(id=self.id, content=[])
        yield ItemAdded(output_index=self.at, item=empty)
        yield PartAdded(output_index=self.at, item_id=self.id, part=TextPart(text=""))

    def more(self, text: str, logprobs: list[ContentLogprob]) -> Event:
        """Add text."""
        self._texts.append(text)
        self._logprobs += logprobs
        return TextDelta(output_index=self.at, item_id=self.id, delta=text, logprobs=logprobs)

    def item(self, status: ItemStatus) -> MessageItem:
        """Return the message."""
        return MessageItem(id=self.id, status=status, content=[self._part()])

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return the whole text, part and message."""
        at, own, part = self.at, self.id, self._part()
        yield TextDone(output_index=at, item_id=own, text=part.text, logprobs=part.logprobs)
        yield PartDone(output_index=at, item_id=own, part=part)
        yield ItemDone(output_index=at, item=self.item(status))

    def _part(self) -> TextPart:
        return TextPart(text="".join(self._texts), logprobs=list(self._logprobs))


@define(eq=False)
class ThinkingDraft:
    """Thinking, told as it is."""

    at: int
    id: str = field(factory=lambda: name("rs"))
    _texts: list[str] = field(factory=list)

    def opening(self) -> Iterable[Event]:
        """Return the empty item and its empty part."""
        empty = ReasoningItem(id=self.id, summary=[])
        yield ItemAdded(output_index=self.at, item=empty)
        yield PartAdded(output_index=self.at, item_id=self.id, part=ThoughtPart(text=""))

    def more(self, text: str) -> Event:
        """Add text."""
        self._texts.append(text)
        return ThoughtDelta(output_index=self.at, item_id=self.id, delta=text)

    def item(self, status: ItemStatus) -> ReasoningItem:
        """Return the item, with its thinking as content."""
        part = ThoughtPart(text="".join(self._texts))
        return ReasoningItem(id=self.id, status=status, summary=[], content=[part])

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return the whole text, part and item."""
        at, own, text = self.at, self.id, "".join(self._texts)
        yield ThoughtDone(output_index=at, item_id=own, text=text)
        yield PartDone(output_index=at, item_id=own, part=ThoughtPart(text=text))
        yield ItemDone(output_index=at, item=self.item(status))


@define(eq=False)
class SummaryDraft:
    """Thinking, told as its own summary: there is nobody to write a shorter one."""

    at: int
    id: str = field(factory=lambda: name("rs"))
    _texts: list[str] = field(factory=list)

    def opening(self) -> Iterable[Event]:
        """Return the empty item and its empty summary."""
        empty = ReasoningItem(id=self.id, summary=[])
        yield ItemAdded(output_index=self.at, item=empty)
        yield SummaryAdded(output_index=self.at, item_id=self.id, part=SummaryPart(text=""))

    def more(self, text: str) -> Event:
        """Add text."""
        self._texts.append(text)
        return SummaryDelta(output_index=self.at, item_id=self.id, delta=text)

    def item(self, status: ItemStatus) -> ReasoningItem:
        """Return the item, with its thinking as summary."""
        part = SummaryPart(text="".join(self._texts))
        return ReasoningItem(id=self.id, status=status, summary=[part])

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return the whole text, summary and item."""
        at, own, text = self.at, self.id, "".join(self._texts)
        yield SummaryTextDone(output_index=at, item_id=own, text=text)
        yield SummaryDone(output_index=at, item_id=own, part=SummaryPart(text=text))
        yield ItemDone(output_index=at, item=self.item(status))


@define(eq=False)
class CallDraft:
    """A call of a function."""

    at: int
    tool: ToolName
    id: str = field(factory=lambda: name("fc"))
    call_id: str = field(factory=lambda: name("call", 24))
    _texts: list[str] = field(factory=list)

    def opening(self) -> Iterable[Event]:
        """Return the call without arguments."""
        yield ItemAdded(output_index=self.at, item=self.item("in_progress"))

    def more(self, text: str) -> Event:
        """Add to the arguments."""
        self._texts.append(text)
        return ArgumentsDelta(output_index=self.at, item_id=self.id, delta=text)

    def item(self, status: ItemStatus) -> FunctionCallItem:
        """Return the call."""
        return FunctionCallItem(
            id=self.id,
            status=status,
            call_id=self.call_id,
            name=self.tool.name,
            namespace=self.tool.namespace or UNSET,
            arguments="".join(self._texts),
        )

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return the whole arguments and the call."""
        at, item = self.at, self.item(status)
        yield ArgumentsDone(
            output_index=at, item_id=self.id, name=item.name, arguments=item.arguments
        )
        yield ItemDone(output_index=at, item=item)


@define(eq=False)
class CustomDraft:
    """A call of a custom tool."""

    at: int
    tool: ToolName
    id: str = field(factory=lambda: name("ctc"))
    call_id: str = field(factory=lambda: name("call", 24))
    _texts: list[str] = field(factory=list)

    def opening(self) -> Iterable[Event]:
        """Return the call without input."""
        yield ItemAdded(output_index=self.at, item=self.item("in_progress"))

    def more(self, text: str) -> Event:
        """Add to the input."""
        self._texts.append(text)
        return InputDelta(output_index=self.at, item_id=self.id, delta=text)

    def item(self, status: ItemStatus) -> CustomCallItem:
        """Return the call."""
        return CustomCallItem(
            id=self.id,
            status=status,
            call_id=self.call_id,
            name=self.tool.name,
            namespace=self.tool.namespace or UNSET,
            input="".join(self._texts),
        )

    def closing(self, status: ItemStatus) -> Iterable[Event]:
        """Return the whole input and the call."""
        at, item = self.at, self.item(status)
        yield InputDone(output_index=at, item_id=self.id, input=item.input)
        yield ItemDone(output_index=at, item=item)


def name(prefix: str, digits: int = 32) -> str:
    """Return a new id."""
    return f"{prefix}_{uuid.uuid4().hex[:digits]}"
