"""From what a parser found in a reply to items, and to the events that tell of them."""

from collections.abc import Iterable, Iterator

from attrs import define, field

from mlxserve_hookspecs import ReplyPart
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
from mlxserve_plugins.responses.pieces import is_whole
from mlxserve_plugins.responses.toolbox import Toolbox, custom_input


@define(eq=False)
class Writer:
    """Writes one response's items. At any time at most one of them is open.

    Attributes:
        box: Knows the tools by the names that the model calls.
        summary: Whether thinking is told as a summary.
        parallel: Whether there may be more than one call; else what follows the first is left out.
        items: Those that are whole.
        calls: Calls so far that have ended; one whose arguments are not JSON was cut.
    """

    box: Toolbox
    summary: bool = False
    parallel: bool = True
    items: list[AnyItem] = field(factory=list)
    calls: int = 0
    _open: Draft | None = None
    _arguments: str = ""

    def take(self, pieces: Iterable[ReplyPart], logprobs: list[ContentLogprob]) -> Iterator[Event]:
        """Add what a parser found.

        Args:
            pieces: It, in order.
            logprobs: Of its content, which goes to the first piece of it.
        """
        for piece in pieces:
            if self.calls and not self.parallel:
                return
            if piece.kind == "reasoning":
                yield from self._think(piece.text)
            elif piece.kind == "content":
                yield from self._say(piece.text, logprobs)
                logprobs = []
            else:
                yield from self._call(piece)

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
        draft = self._open
        if not isinstance(draft, ThinkingDraft | SummaryDraft):
            yield from self._close("completed")
            kind = SummaryDraft if self.summary else ThinkingDraft
            draft = kind(len(self.items))
            yield from self._begin(draft)
        yield draft.more(text)

    def _say(self, text: str, logprobs: list[ContentLogprob]) -> Iterable[Event]:
        draft = self._open
        if not isinstance(draft, MessageDraft):
            yield from self._close("completed")
            draft = MessageDraft(len(self.items))
            yield from self._begin(draft)
        yield draft.more(text, logprobs)

    def _call(self, piece: ReplyPart) -> Iterable[Event]:
        draft = self._open
        if not isinstance(draft, CallDraft | CustomDraft) or piece.name:
            yield from self._close("completed")
            tool = self.box.name_of(piece.name)
            kind = CustomDraft if tool.kind == "custom" else CallDraft
            draft = kind(len(self.items), tool)
            yield from self._begin(draft)
        self._arguments += piece.arguments
        if isinstance(draft, CallDraft) and piece.arguments:
            yield draft.more(piece.arguments)
        if piece.done:
            yield from self._close("completed")

    def _begin(self, draft: Draft) -> Iterable[Event]:
        self._open, self._arguments = draft, ""
        return draft.opening()

    def _close(self, status: ItemStatus) -> Iterable[Event]:
        draft, self._open = self._open, None
        if draft is None:
            return
        if isinstance(draft, CallDraft | CustomDraft):
            self.calls += 1
            status = "completed" if is_whole(self._arguments) else "incomplete"
        if isinstance(draft, CustomDraft) and self._arguments:
            # Its plain text is known when the JSON around it is whole.
            yield draft.more(custom_input(self._arguments))
        self.items.append(draft.item(status))
        yield from draft.closing(status)
