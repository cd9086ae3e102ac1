"""A reply's text, thinking and calls as blocks: as they stream, and as they are in the end."""

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import OutputDelta, ReplyPart
from mlxserve_plugins.anthropic.answers import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Event,
    InputJsonDelta,
    ReplyBlock,
    SignatureDelta,
    TextContent,
    TextDelta,
    ThinkingContent,
    ThinkingDelta,
    ToolUseContent,
)
from mlxserve_plugins.anthropic.thinking import signature_of


@define(eq=False)
class BlockWriter:
    """Writes the events of a message's blocks, one block after the other.

    Attributes:
        omit_thinking: Whether thinking shows its signature only.
        one_call: Whether calls after the first are left out.
        calls: Calls so far.
    """

    omit_thinking: bool = False
    one_call: bool = False
    calls: int = 0
    _index: int = -1
    _open: type[ReplyBlock] | None = None
    _thought: list[str] = field(factory=list)

    def write(self, delta: OutputDelta) -> Iterator[Event]:
        """Yield what a piece of the reply adds."""
        for piece in delta.pieces(self.calls):
            if piece.kind == "call":
                yield from self._call(piece)
            else:
                yield from (self._think if piece.kind == "reasoning" else self._say)(piece.text)

    def close(self) -> Iterator[Event]:
        """Yield the end of the block that is open, if one is."""
        if self._open is None:
            return
        if self._open is ThinkingContent:
            signature = signature_of("".join(self._thought), omitted=self.omit_thinking)
            self._thought.clear()
            yield BlockDelta(self._index, SignatureDelta(signature))
        self._open = None
        yield BlockStop(self._index)

    def _think(self, text: str) -> Iterator[Event]:
        yield from self._enter(ThinkingContent())
        self._thought.append(text)
        if not self.omit_thinking:
            yield BlockDelta(self._index, ThinkingDelta(text))

    def _say(self, text: str) -> Iterator[Event]:
        yield from self._enter(TextContent())
        yield BlockDelta(self._index, TextDelta(text))

    def _call(self, piece: ReplyPart) -> Iterator[Event]:
        if self.one_call and piece.index:
            return
        if piece.name:
            yield from self.close()
            self.calls += 1
            block = ToolUseContent(f"toolu_{uuid.uuid4().hex[:24]}", piece.name, {})
            yield from self._enter(block)
        if piece.arguments:
            yield BlockDelta(self._index, InputJsonDelta(piece.arguments))
        if piece.done:
            yield from self.close()

    def _enter(self, block: ReplyBlock) -> Iterator[Event]:
        if self._open is type(block):
            return
        yield from self.close()
        self._index, self._open = self._index + 1, type(block)
        yield BlockStart(self._index, block)


def assembled(events: Iterable[Event]) -> list[ReplyBlock]:
    """Return the blocks that events of a message spell."""
    blocks: list[ReplyBlock] = []
    pieces: list[list[str]] = []
    for event in events:
        if isinstance(event, BlockStart):
            blocks.append(event.content_block)
            pieces.append([])
        elif isinstance(event, BlockDelta):
            match event.delta:
                case TextDelta(text) | ThinkingDelta(text) | InputJsonDelta(text):
                    pieces[event.index].append(text)
                case SignatureDelta(signature):
                    _sign(blocks[event.index], signature)
    for block, parts in zip(blocks, pieces, strict=True):
        _fill(block, "".join(parts))
    return blocks


def _sign(block: ReplyBlock, signature: str) -> None:
    if isinstance(block, ThinkingContent):
        block.signature = signature


def _fill(block: ReplyBlock, text: str) -> None:
    match block:
        case TextContent():
            block.text = text
        case ThinkingContent():
            block.thinking = text
        case ToolUseContent():
            block.input = _read(text)


def _read(arguments: str) -> dict[str, Any]:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):  # a call that was cut short
        return {}
    return found if isinstance(found, dict) else {}
