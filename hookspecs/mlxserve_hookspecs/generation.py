"""Hooks that shape a reply: constrain its tokens, read its structure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

from mlxserve_hookspecs.arrays import Array
from mlxserve_hookspecs.engine import TextCodec
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.markup import Markup, OutputParser
from mlxserve_hookspecs.requests import GenerationRequest

CONSTRAINT_FIELD: Final = "response_format"
"""The request's field that a demand nobody can meet is refused for."""


StopReason: TypeAlias = Literal["stop", "length"]
"""Why a plugin ends a reply: it is complete as it is, or it was cut."""


class Constraint(Protocol):
    """Allows or forbids tokens, for one choice of one request. Runs on the engine thread.

    Where it fails its own choice ends with an error (status 500), and no other.
    """

    def mask(self) -> Array | None:
        """Return booleans ``[vocab]`` of what may come next; ``None`` when anything may."""

    def advance(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that were taken."""

    def rollback(self, count: int) -> None:
        """Forget the last ``count`` tokens: drafts that were not kept."""

    @property
    def finished(self) -> bool:
        """Whether the reply is complete and must end here."""


class StopCondition(Protocol):
    """Ends one choice of one request by its own judgement. Runs on the engine thread.

    It hears every token of the reply once and in order, accepted drafts among them, but for the end
    of sequence; nothing is taken back. What it raises is logged and counted under its plugin's
    name, and it is not asked again.
    """

    def advance(self, token: int) -> StopReason | None:
        """Learn the next token; return why the reply ends with it, or ``None`` if it goes on.

        Called while the device is at the next pass: a few microseconds cost nothing.
        """


@hookspec(firstresult=True)
def make_constraint(
    request: GenerationRequest, text: TextCodec, vocab_size: int
) -> Constraint | None:
    """Make the constraint that ``request.constraint`` demands.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass. A demand that nobody
    answers is refused (status 400); raise ``RequestError`` for one that cannot be met.

    ``vocab_size`` is the width of the logits, and so of the masks; the tokenizer may know less.

    Called once per choice of a request that has one, on every rank, on one thread beside the
    engine's: it may take its time, but must not touch MLX. The request queues meanwhile, and those
    behind it are let pass. What a plugin raises otherwise, or answers that is no constraint, ends
    the choice (status 500).
    """


@hookspec
def make_stop_condition(
    request: GenerationRequest, choice: int, text: TextCodec
) -> StopCondition | None:
    """Make a condition on which one choice of a request ends.

    **Gather.** Every plugin is asked, and the first condition that is met counts; return ``None``
    for none. A plugin that raises is logged, counted and left out; the request goes on.

    Called once per choice, on the engine thread of every rank: all of them must end a reply alike.
    """


@hookspec(firstresult=True)
def describe_markup(text: TextCodec, template: str) -> Markup | None:
    """Say how the model marks its thinking and its tool calls.

    **Ask.** The first plugin to answer is heard: ``text.markup`` is its answer from then on. Return
    ``None`` to pass: it stays what the model library found, which is what ``text.markup`` says now.
    ``template`` is the source of the chat template; empty if there is none.

    Called once, when the model is loaded, on the engine thread of every rank. A plugin that fails
    here ends the start.

    Raises:
        SettingError: A format that the user named does not exist.
    """


@hookspec(firstresult=True)
def make_output_parser(
    text: TextCodec, tools: Sequence[Mapping[str, Any]] | None, reasoning: bool, forced: bool
) -> OutputParser | None:
    """Make the parser of one choice's text.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass: all text is content.

    ``reasoning`` says that the reply begins within the model's thinking, which the prompt opened;
    ``forced`` that a constraint makes it a call: what the reply's end leaves of one is no content.

    Called once per choice of a chat request, on the event loop. A plugin that raises, or answers
    with what is no parser, has passed; a parser that fails is not asked again, and what it has not
    returned by then is lost, and all that follows is content.
    """
