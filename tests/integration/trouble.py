"""A plugin that brings trouble when a test asks for it; the server under test installs it."""

import threading
from collections.abc import Sequence
from typing import Any, Literal

from attrs import define, field, frozen

from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    KvSide,
    OutputDelta,
    OutputParser,
    PlaneSpec,
    Side,
    TextCodec,
    hookimpl,
)

VOCAB = 288
UNREADABLE = 1
"""A special token: it is decoded for nobody but who wants to see special tokens."""

WELL = 2
"""Tokens of a reply before its constraint or its parser fails."""

PATIENCE = 30.0
FAULTS = {
    "prefill": RuntimeError("[trouble] this prefill pass fails"),
    "decode": RuntimeError("[trouble] this decode step fails"),
    "memory": RuntimeError("[malloc] Unable to allocate 68719476736 bytes."),
}


@define(eq=False)
class Faults:
    """What the next forward passes meet.

    Attributes:
        kind: A key of ``FAULTS``, or ``stuck``: it does not end before it is released.
        left: Passes that meet it still.
        released: Lets go of a stuck step.
    """

    kind: str = ""
    left: int = 0
    released: threading.Event = field(factory=threading.Event)

    def arm(self, kind: str, passes: int) -> None:
        """Let the next ``passes`` passes of their kind meet trouble."""
        self.kind, self.left = kind, passes
        self.released.clear() if kind == "stuck" else self.released.set()

    def strike(self, tokens: int) -> None:
        """Meet trouble in a pass of so many tokens a row."""
        if not self.left or (tokens == 1) == (self.kind == "prefill"):
            return
        self.left -= 1
        if self.kind == "stuck":
            self.released.wait(PATIENCE)
        else:
            raise FAULTS[self.kind]


@frozen(eq=False)
class PlainWithFaults:
    """The plain layout of KV, whose forward passes fail when told to."""

    faults: Faults
    name: str = "plain-with-faults"
    words: None = None

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        return (PlaneSpec(side.width, side.dtype),)

    def encode(self, x: Any, side: Side) -> tuple[Any, ...]:
        del side
        self.faults.strike(x.shape[2])
        return (x,)

    def decode(self, planes: Sequence[Any], side: Side) -> Any:
        del side
        return planes[0]

    def attend(
        self,
        queries: Any,
        keys: Sequence[Any],
        values: Sequence[Any],
        *,
        scale: float,
        mask: Any | Literal["causal"] | None,
        sinks: Any | None,
    ) -> Any:
        import mlx.core as mx

        return mx.fast.scaled_dot_product_attention(
            queries, keys[0], values[0], scale=scale, mask=mask, sinks=sinks
        )


@define(eq=False)
class Failing:
    """Allows every token, and fails where its kind says."""

    kind: str
    taken: int = 0
    finished: bool = False

    def mask(self) -> Any:
        import mlx.core as mx

        if self.kind == "mask" and self.taken == WELL:
            raise ValueError("[trouble] there is no mask")
        if self.kind == "detokenizer" and self.taken == WELL:
            return mx.arange(VOCAB) == UNREADABLE
        return mx.ones((VOCAB,), mx.bool_)

    def advance(self, tokens: Sequence[int]) -> None:
        self.taken += len(tokens)
        if self.kind == "processor" and self.taken > WELL:
            raise ValueError("[trouble] the processor does not like this token")

    def rollback(self, count: int) -> None:
        self.taken -= count


class FailingParser:
    """Reads a few pieces of text and then fails."""

    def __init__(self) -> None:
        self.read = 0

    def feed(self, text: str) -> OutputDelta:
        self.read += 1
        if self.read > WELL:
            raise ValueError("[trouble] this cannot be parsed")
        return OutputDelta(content=text)

    def finish(self) -> OutputDelta:
        raise ValueError("[trouble] this has no end")


class Trouble:
    """Announces ``POST /trouble``, and fails for requests whose ``response_format`` asks for it."""

    def __init__(self) -> None:
        self.faults = Faults()

    @hookimpl
    def routes(self) -> list[Any]:
        from litestar import post

        @post("/trouble/{kind:str}/{passes:int}", status_code=200)
        async def trouble(kind: str, passes: int) -> None:
            self.faults.arm(kind, passes)

        return [trouble]

    @hookimpl
    def make_kv_codec(self) -> PlainWithFaults:
        return PlainWithFaults(self.faults)

    @hookimpl
    def make_constraint(self, request: GenerationRequest, text: TextCodec) -> Constraint:
        kind = (request.constraint or {})["type"]
        if kind == "hook":
            raise ValueError("[trouble] this hook fails")
        if kind == "detokenizer":
            vars(text)["decode"] = _unreadable(text)
            vars(text)["spelled"] = _unspelled(text)
        return Failing(kind)

    @hookimpl
    def make_output_parser(self, tools: Sequence[Any] | None) -> OutputParser | None:
        names = [tool["function"]["name"] for tool in tools or ()]
        return FailingParser() if "parser" in names else None

    @hookimpl
    def first_token(self, request: GenerationRequest) -> None:
        if (request.constraint or {}).get("type") == "told":
            raise ValueError("[trouble] this event is not heard")


def _unreadable(text: TextCodec) -> Any:
    decode = type(text).decode

    def decode_all_but_one(tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        if UNREADABLE in tokens and not skip_special_tokens:
            raise ValueError("[trouble] a token cannot be decoded")
        return decode(text, tokens, skip_special_tokens=skip_special_tokens)

    return decode_all_but_one


def _unspelled(text: TextCodec) -> Any:
    spelled: Any = type(text).spelled  # type: ignore[attr-defined]

    def spelled_all_but_one(token: int) -> bytes | None:
        if token == UNREADABLE:
            raise ValueError("[trouble] a token cannot be decoded")
        found: bytes | None = spelled(text, token)
        return found

    return spelled_all_but_one
