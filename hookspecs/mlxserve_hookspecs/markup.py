"""How a model marks its thinking and its tool calls, and what reads them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from attrs import field, frozen

CALLS: Final = "tool_calls"
"""Where a message has its calls, to chat templates and so in ``render_chat``."""


@frozen(kw_only=True)
class ReplyPart:
    """One piece of a reply, in the reply's own order.

    Attributes:
        kind: ``content``, ``reasoning``, or ``call``: a piece of a tool call.
        text: Of content or reasoning.
        index: Which call of the reply it is, from 0.
        name: The function's; on a call's first piece only.
        id: What the model itself calls the call, where it does; on the first piece only.
        arguments: The next fragment of the arguments' JSON text; those of a call, joined, are it.
        done: Nothing of this call follows. A call that the reply's end cuts is done too; its
            arguments do not parse then.
    """

    kind: Literal["content", "reasoning", "call"]
    text: str = ""
    index: int = 0
    name: str = ""
    id: str = ""
    arguments: str = ""
    done: bool = False


@frozen(kw_only=True)
class OutputDelta:
    """What a parser made of some text.

    A surface that streams reads ``pieces``; one that wants whole calls reads ``tool_calls``. Either
    tells a whole reply.

    Attributes:
        content: Text for the reader.
        reasoning: Text of the model's thinking.
        tool_calls: Calls that became complete: ``{"name": ..., "arguments": ...}``, arguments as
            a JSON string; ``id`` where the model gave one.
        parts: The same in order, calls in fragments; empty from a parser that does not know.
        broken: Calls that could not be read, and came back as text or cut.
        thinking: Whether the reply is within its thinking after this text.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=())
    parts: tuple[ReplyPart, ...] = ()
    broken: int = 0
    thinking: bool = False

    def __add__(self, after: "OutputDelta") -> "OutputDelta":
        """Return this and what came after it as one."""
        known = all(one.parts or not one.has_text for one in (self, after))
        return OutputDelta(
            content=self.content + after.content,
            reasoning=self.reasoning + after.reasoning,
            tool_calls=(*self.tool_calls, *after.tool_calls),
            parts=(*self.parts, *after.parts) if known else (),
            broken=self.broken + after.broken,
            thinking=after.thinking,
        )

    @property
    def has_text(self) -> bool:
        """Whether anything was said, thought or called."""
        return bool(self.content or self.reasoning or self.tool_calls)

    def pieces(self, calls: int = 0) -> tuple[ReplyPart, ...]:
        """Return the parts in order; made up from the other fields where a parser gave none.

        Args:
            calls: Calls that earlier deltas had: where a parser gave no parts, numbers go on here.
        """
        if self.parts:
            return self.parts
        found = [
            ReplyPart(kind="reasoning", text=self.reasoning),
            ReplyPart(kind="content", text=self.content),
        ]
        made = [
            ReplyPart(
                kind="call",
                index=index,
                name=call["name"],
                id=str(call.get("id") or ""),
                arguments=call["arguments"],
                done=True,
            )
            for index, call in enumerate(self.tool_calls, calls)
        ]
        return (*(part for part in found if part.text), *made)


class OutputParser(Protocol):
    """Splits one choice's text into content, reasoning and tool calls, as it streams."""

    def feed(self, text: str) -> OutputDelta:
        """Take the next piece of text and return what became certain."""

    def finish(self) -> OutputDelta:
        """Return what was held back; the reply has ended."""


class CallFormat(Protocol):
    """How the models of a family write their tool calls."""

    @property
    def name(self) -> str:
        """What ``--tool-format`` calls it."""

    @property
    def bare(self) -> bool:
        """Whether a call may begin without a marker, at the very start of a reply."""

    def parser(
        self,
        markup: "Markup",
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        reasoning: bool = False,
        forced: bool = False,
    ) -> OutputParser:
        """Return the parser of one choice; arguments as ``make_output_parser``'s."""

    def head(self, name: str) -> str:
        """Return what a call of ``name`` begins with where no marker opens it.

        Where calls are free, they are held to their grammar from there on. Empty: never.
        """

    def grammar(
        self,
        functions: Sequence[Mapping[str, Any]],
        spell: Callable[[str], str],
        *,
        bare: bool = False,
    ) -> Sequence[str] | None:
        """Return Lark rules of one call of one of ``functions``, markers and all.

        The first rule is named ``call``; ``None`` if the form has no grammar.

        Args:
            functions: OpenAI's, parameters as closed JSON schemas.
            spell: Returns the Lark expression of a marker, special tokens by number.
            bare: Whether it is a call that no marker opens.
        """


@frozen(kw_only=True)
class Markup:
    """How a model marks its thinking and its tool calls in a reply.

    Attributes:
        think_start: Opens the thinking; empty if the model marks none.
        think_end: Closes it.
        think_close: What is said to end the thinking early; empty: ``think_end``.
        answer_start: Stands before every answer, where an answer has a header; else empty.
        tool_start: Opens a tool call, or several; empty if the model makes none.
        tool_end: Closes it; empty also where the end of the reply does.
        parse_call: Takes what stands between, and the request's tools; returns a call, ``name``
            and ``arguments``, or a list of them. On anything else it may raise anything.
        dropped: Markers of structure, which no reader wants to see.
        initial: The state in which replies begin, for a model that has more states than these:
            ``normal``, ``reasoning`` and ``tool``.
        transitions: Such a model's markers in each state, each with the state that it leads to.
        special: Whether a marker has special tokens: text without those lacks it.
        thinking: The thinking format's name; empty if nobody named it.
        switches: Variables by which the chat template takes orders about thinking.
        calls: The calls' format; ``None`` if nobody named it: as ``parse_call`` reads them.
        ignores_tools: Whether the chat template leaves a request's tools out of the prompt.
    """

    think_start: str = ""
    think_end: str = ""
    think_close: str = ""
    answer_start: str = ""
    tool_start: str = ""
    tool_end: str = ""
    parse_call: Callable[[str, Sequence[Mapping[str, Any]] | None], Any] | None = None
    dropped: tuple[str, ...] = ()
    initial: str = "normal"
    transitions: Mapping[str, tuple[tuple[str, str], ...]] = field(factory=dict)
    special: bool = False
    thinking: str = ""
    switches: tuple[str, ...] = ()
    calls: CallFormat | None = None
    ignores_tools: bool = False
