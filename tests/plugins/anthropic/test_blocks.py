"""Blocks from the pieces of a reply, however they come."""

from mlxserve_hookspecs import OutputDelta, ReplyPart
from mlxserve_plugins.anthropic.answers import (
    BlockDelta,
    BlockStart,
    InputJsonDelta,
    TextContent,
    ThinkingContent,
    ToolUseContent,
)
from mlxserve_plugins.anthropic.blocks import BlockWriter, assembled


def call(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def kinds(*deltas: OutputDelta, one_call: bool = False) -> list[str]:
    writer = BlockWriter(one_call=one_call)
    events = [event for delta in deltas for event in writer.write(delta)] + list(writer.close())
    return [type(e.content_block).__name__ for e in events if isinstance(e, BlockStart)]


def test_blocks_are_in_the_order_of_the_parts() -> None:
    said = ReplyPart(kind="content", text="c")
    thought = ReplyPart(kind="reasoning", text="r")
    thinking, text = ThinkingContent.__name__, TextContent.__name__
    assert kinds(OutputDelta(content="c", reasoning="r")) == [thinking, text]
    assert kinds(OutputDelta(content="c", reasoning="r", parts=(said, thought))) == [text, thinking]
    assert kinds(OutputDelta(parts=(said,), content="c"), OutputDelta(content="c")) == [text]


def test_calls_after_the_first_are_left_out_where_one_is_wanted() -> None:
    two = OutputDelta(tool_calls=(call("f", "{}"), call("g", "{}")))
    assert kinds(two, two, one_call=True) == [ToolUseContent.__name__]
    assert kinds(two, two) == [ToolUseContent.__name__] * 4


def test_arguments_may_come_in_pieces() -> None:
    writer = BlockWriter()
    pieces = [
        ReplyPart(kind="call", name="f"),
        ReplyPart(kind="call", arguments='{"a"'),
        ReplyPart(kind="call", arguments=": 1}", done=True),
    ]
    events = [event for piece in pieces for event in writer._call(piece)]
    deltas = [e.delta for e in events if isinstance(e, BlockDelta)]
    assert deltas == [InputJsonDelta('{"a"'), InputJsonDelta(": 1}")]
    (block,) = assembled(events)
    assert isinstance(block, ToolUseContent)
    assert (block.name, block.input) == ("f", {"a": 1})


def test_a_call_that_was_cut_short_has_no_input() -> None:
    writer = BlockWriter()
    events = [*writer._call(ReplyPart(kind="call", name="f", arguments='{"a"')), *writer.close()]
    (block,) = assembled(events)
    assert isinstance(block, ToolUseContent)
    assert block.input == {}


def test_arguments_that_are_no_object_are_none() -> None:
    writer = BlockWriter()
    events = [*writer._call(ReplyPart(kind="call", name="f", arguments="[1]", done=True))]
    (block,) = assembled(events)
    assert isinstance(block, ToolUseContent)
    assert block.input == {}
