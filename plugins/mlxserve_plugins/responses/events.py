"""The events of a stream, each by the name that clients know it by."""

from msgspec import Struct, field

from mlxserve_plugins.openai.answers import ContentLogprob
from mlxserve_plugins.responses.answers import (
    AnyItem,
    ResponseObject,
    SummaryPart,
    TextPart,
    ThoughtPart,
)


class Event(Struct, kw_only=True, tag_field="type"):
    """What all events have: their number, from 0, without a gap."""

    sequence_number: int = 0


class ResponseEvent(Event):
    """An event of the whole response."""

    response: ResponseObject


class Created(ResponseEvent, tag="response.created"):
    """It was let in."""


class InProgress(ResponseEvent, tag="response.in_progress"):
    """It runs; told again where there is a long silence."""


class Completed(ResponseEvent, tag="response.completed"):
    """It ended by itself."""


class Incomplete(ResponseEvent, tag="response.incomplete"):
    """It was cut: too few tokens."""


class Failed(ResponseEvent, tag="response.failed"):
    """It failed."""


class ItemEvent(Event):
    """An event of one item.

    Attributes:
        output_index: The item's place in ``output``.
    """

    output_index: int


class ItemAdded(ItemEvent, tag="response.output_item.added"):
    """An item begins."""

    item: AnyItem


class ItemDone(ItemEvent, tag="response.output_item.done"):
    """An item is whole, or was cut."""

    item: AnyItem


class WithinItem(ItemEvent):
    """An event within an item."""

    item_id: str


class PartAdded(WithinItem, tag="response.content_part.added"):
    """A part of a message or of thinking begins."""

    part: TextPart | ThoughtPart
    content_index: int = 0


class PartDone(WithinItem, tag="response.content_part.done"):
    """A part is whole, or was cut."""

    part: TextPart | ThoughtPart
    content_index: int = 0


class TextDelta(WithinItem, tag="response.output_text.delta"):
    """More of a message."""

    delta: str
    logprobs: list[ContentLogprob] = field(default_factory=list)
    content_index: int = 0


class TextDone(WithinItem, tag="response.output_text.done"):
    """A message's whole text."""

    text: str
    logprobs: list[ContentLogprob] = field(default_factory=list)
    content_index: int = 0


class ThoughtDelta(WithinItem, tag="response.reasoning_text.delta"):
    """More thinking."""

    delta: str
    content_index: int = 0


class ThoughtDone(WithinItem, tag="response.reasoning_text.done"):
    """The whole thinking."""

    text: str
    content_index: int = 0


class SummaryAdded(WithinItem, tag="response.reasoning_summary_part.added"):
    """A summary begins."""

    part: SummaryPart
    summary_index: int = 0


class SummaryDelta(WithinItem, tag="response.reasoning_summary_text.delta"):
    """More of a summary."""

    delta: str
    summary_index: int = 0


class SummaryTextDone(WithinItem, tag="response.reasoning_summary_text.done"):
    """A summary's whole text."""

    text: str
    summary_index: int = 0


class SummaryDone(WithinItem, tag="response.reasoning_summary_part.done"):
    """A summary is whole, or was cut."""

    part: SummaryPart
    summary_index: int = 0


class ArgumentsDelta(WithinItem, tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(WithinItem, tag="response.function_call_arguments.done"):
    """A call's whole arguments."""

    name: str
    arguments: str


class InputDelta(WithinItem, tag="response.custom_tool_call_input.delta"):
    """More of a custom tool's input."""

    delta: str


class InputDone(WithinItem, tag="response.custom_tool_call_input.done"):
    """A custom tool's whole input."""

    input: str


def kind_of(event: Event) -> str:
    """Return an event's name, as its ``type`` says."""
    return str(event.__struct_config__.tag)
