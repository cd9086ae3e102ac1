"""End a reply with its first call, where the client takes one at most, whatever its form."""

from codecs import getincrementaldecoder
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import GenerationRequest, OutputParser, StopReason, TextCodec
from mlxserve_plugins.tools.choosing import form_of


def is_one_call(request: GenerationRequest) -> bool:
    """Return whether a request takes one call at most."""
    return calls_of(request).get("parallel") is False


def calls_of(request: GenerationRequest) -> Mapping[str, Any]:
    """Return what a request's constraint says of calls: ``tools`` and ``parallel``."""
    wanted = request.constraint or {}
    found = wanted if wanted.get("type") == "tool_choice" else wanted.get("calls")
    return found if isinstance(found, Mapping) else {}


def one_call(request: GenerationRequest, text: TextCodec) -> "OneCall":
    """Return the condition of one choice of a request."""
    parser = form_of(text.markup).parser(
        text.markup, calls_of(request)["tools"], reasoning=text.opens_thinking(request.prompt)
    )
    return OneCall(parser, text)


@define(eq=False)
class OneCall:
    """Reads along, as the surface does, until the arguments of a call are complete.

    Attributes:
        parser: Reads the model's form.
        text: Says what tokens spell.
    """

    parser: OutputParser
    text: TextCodec
    _decoder: Any = field(factory=lambda: getincrementaldecoder("utf-8")("replace"))

    def advance(self, token: int) -> StopReason | None:
        """Learn the next token; return ``stop`` if it completes a call."""
        spelt = self._decoder.decode(self.text.token_bytes(token))
        return "stop" if spelt and self.parser.feed(spelt).tool_calls else None
