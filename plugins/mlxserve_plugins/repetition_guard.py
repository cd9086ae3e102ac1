"""End a reply that repeats the same tokens over and over, as small models do until their limit.

A reply loops if its last tokens have a period: each is the one that stood ``period`` tokens before
it. It is ended when they are at least ``LEAST`` tokens and at least ``REPEATS`` whole periods, for
periods up to ``LONGEST``: a line of ten tokens 103 times, a paragraph of 300 four times. The
field ends far sooner: Ollama at 31 equal pieces (`llm/server.go`), vllm-repetition-collapse-guard
at 32 tokens of n-grams of up to 12; MiniMax-M1 (arXiv 2506.13585, 3.2) waits for 3,000 tokens of
probability above 0.99. Sooner cuts rules of ``====``, rows of zeros and code whose lines are alike;
a loop that runs some hundred tokens longer costs little beside a reply that was cut. What differs
from row to row in as much as a number has no period, so tables and lists of records never end
here; nor do loops that count or vary their words.

Found by looking for the last ``ANCHOR`` tokens in those before them, once in ``STRIDE`` tokens (a
prime, so that looks fall on all parts of a period in turn), and comparing what lies between and
before: searches of bytes in C, in a bounded window, so O(1) a token.
"""

from array import array
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from attrs import define, field, frozen
from attrs.validators import in_

from mlxserve_hookspecs import (
    GenerationRequest,
    StopCondition,
    StopReason,
    hookimpl,
    option,
)

LEAST: Final = 1024
"""Tokens of a loop: fewer are no loop, however often they repeat."""

REPEATS: Final = 4
LONGEST: Final = 1024
"""Tokens of a period."""

ANCHOR: Final = 32
STRIDE: Final = 61
TRIES: Final = 16
"""Periods that are tried at a time, the shortest first."""

WINDOW: Final = max(LEAST, REPEATS * LONGEST)
WIDTH: Final = array("I").itemsize


@frozen
class RepetitionGuardOptions:
    """End replies that loop."""

    mode: Literal["off", "stop"] = option(
        "off",
        "stop ends a reply that repeats the same tokens over and over: at least 1,024 tokens and 4 "
        "times, without any difference",
        flag="--repetition-guard",
        check=in_(("off", "stop")),
    )


@define(eq=False)
class RepetitionGuard:
    """Watches every choice of every request, if it is switched on."""

    options: RepetitionGuardOptions = field(factory=RepetitionGuardOptions)
    _stopped: int = field(default=0, init=False)

    @hookimpl
    def make_stop_condition(self, request: GenerationRequest, choice: int) -> StopCondition | None:
        """Answer unless it is off.

        A reply that was to have a form is cut, not complete: its ``stop`` means that it has it.
        """
        if self.options.mode == "off":
            return None
        formed = (request.constraint or {}).get("type") not in (None, "thinking")
        return Watch(self, request.id, choice, "length" if formed else "stop")

    @hookimpl
    def running_totals(self) -> Mapping[str, float]:
        """Answer with the replies that were ended."""
        return {"repetition_stops": float(self._stopped)}

    def note(self, request: str, choice: int, period: int, tokens: int) -> None:
        """Count and log an ending."""
        import structlog  # noqa: PLC0415 - not before it is needed

        self._stopped += 1
        structlog.get_logger("mlxserve.repetition_guard").warning(
            "a reply that repeats itself was ended",
            request=request,
            choice=choice,
            period=period,
            tokens=tokens,
        )


@define(eq=False)
class Watch:
    """Ends one choice.

    Attributes:
        guard: Told when it does.
        request: The request's id.
        choice: Which of its choices.
        reason: What the reply ends with.
    """

    guard: RepetitionGuard
    request: str
    choice: int
    reason: StopReason
    _tokens: "array[int]" = field(factory=lambda: array("I"))
    _heard: int = 0

    def advance(self, token: int) -> StopReason | None:
        """Learn the next token; look for a loop now and then."""
        self._tokens.append(token)
        self._heard += 1
        if self._heard % STRIDE or self._heard < LEAST:
            return None
        del self._tokens[:-WINDOW]
        period = period_of(self._tokens)
        if period is None:
            return None
        self.guard.note(self.request, self.choice, period, self._heard)
        return self.reason


def period_of(tokens: "array[int]") -> int | None:
    """Return the period with which tokens end, if they loop; the shortest of those tried."""
    spelt = tokens.tobytes()
    for period in _periods(spelt):
        length = max(LEAST, REPEATS * period) * WIDTH
        if length > len(spelt):
            return None
        shift = period * WIDTH
        if spelt[-length:-shift] == spelt[shift - length :]:
            return period
    return None


def _periods(spelt: bytes) -> Iterator[int]:
    """Yield how far before their end the last tokens stood last, the time before that, ..."""
    anchor = spelt[-ANCHOR * WIDTH :]
    end = len(spelt) - 1
    for _ in range(TRIES):
        at = spelt.rfind(anchor, 0, end)
        while at % WIDTH and at >= 0:
            at = spelt.rfind(anchor, 0, at + len(anchor) - 1)
        if at < 0:
            return
        end = at + len(anchor) - 1
        yield (len(spelt) - len(anchor) - at) // WIDTH
