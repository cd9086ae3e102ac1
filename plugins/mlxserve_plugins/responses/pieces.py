"""What a parser found, piece by piece and in order; a call may come in fragments."""

import json
from typing import Literal

from attrs import frozen

from mlxserve_hookspecs import OutputDelta


@frozen(kw_only=True)
class Piece:
    """One piece of a reply.

    Attributes:
        kind: ``content``, ``reasoning``, or ``call``: a piece of a tool call.
        text: Of content or reasoning.
        index: Which call of the reply it is, from 0.
        name: The function's; on a call's first piece only.
        arguments: The next fragment of the arguments' JSON text; those of a call, joined, are it.
        done: Nothing of this call follows.
    """

    kind: Literal["content", "reasoning", "call"]
    text: str = ""
    index: int = 0
    name: str = ""
    arguments: str = ""
    done: bool = False


def pieces_of(delta: OutputDelta, calls: int) -> list[Piece]:
    """Return the pieces of ``delta``.

    Args:
        delta: What a parser made of some text.
        calls: Calls that earlier deltas had.
    """
    found = [
        Piece(kind="reasoning", text=delta.reasoning),
        Piece(kind="content", text=delta.content),
    ]
    made = [
        Piece(kind="call", index=at, name=call["name"], arguments=call["arguments"], done=True)
        for at, call in enumerate(delta.tool_calls, calls)
    ]
    return [*(piece for piece in found if piece.text), *made]


def is_whole(arguments: str) -> bool:
    """Return whether a call's arguments were not cut: they are JSON."""
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True
