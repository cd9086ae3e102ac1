"""Replies as Ollama tells them: objects, one a line, of which the last has the figures."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from msgspec import UNSET, Struct, UnsetType

from mlxserve_hookspecs import Finish, GenerationEvent, OutputDelta
from mlxserve_plugins.openai.chat import SpokenChoice
from mlxserve_plugins.openai.jobs import Job
from mlxserve_plugins.openai.replies import ended

NANO = 1_000_000_000


class CalledFunction(Struct):
    """A function and its arguments."""

    name: str
    arguments: dict[str, Any]


class ToolCall(Struct):
    """A call that the model wants made."""

    function: CalledFunction


class Message(Struct, kw_only=True):
    """A reply, or a piece of one."""

    role: str = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Line(Struct, kw_only=True):
    """One line: ``message`` in a chat, ``response`` and ``thinking`` else; figures at the end."""

    model: str
    created_at: str
    message: Message | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


@define(eq=False)
class OllamaReply:
    """The reply to one request.

    Attributes:
        job: The request.
        spoken: Reads its text.
        chat: Whether it is a message of a chat.
    """

    job: Job
    spoken: SpokenChoice
    chat: bool
    _parts: list[OutputDelta] = field(factory=list)
    _last: Line | None = None

    def lines(self, event: GenerationEvent) -> Iterator[Line]:
        """Yield what an event adds, the end if it is the last.

        Raises:
            RequestError: The reply failed.
        """
        delta = self.spoken.read(event)
        if delta.content or delta.reasoning or delta.tool_calls:
            yield self._said(delta)
        if event.finish is not None:
            yield self._ended(event.finish)

    def add(self, event: GenerationEvent) -> None:
        """Keep an event for ``whole``; raises like ``lines``."""
        self._parts.append(self.spoken.read(event))
        if event.finish is not None:
            self._last = self._ended(event.finish)

    def whole(self) -> Line:
        """Return the reply and its figures, when it has ended."""
        said = self._said(
            OutputDelta(
                content="".join(part.content for part in self._parts),
                reasoning="".join(part.reasoning for part in self._parts),
                tool_calls=tuple(call for part in self._parts for call in part.tool_calls),
            )
        )
        line = self._last or said
        line.message, line.response, line.thinking = said.message, said.response, said.thinking
        return line

    def _said(self, delta: OutputDelta) -> Line:
        thinking = delta.reasoning or UNSET
        if not self.chat:
            return line_of(self.job.card.id, response=delta.content, thinking=thinking)
        calls = [_call(call) for call in delta.tool_calls] or UNSET
        message = Message(content=delta.content, thinking=thinking, tool_calls=calls)
        return line_of(self.job.card.id, message=message)

    def _ended(self, finish: Finish) -> Line:
        reason = ended(finish)
        first = finish.first_token_seconds or finish.total_seconds
        figures = {
            "done": True,
            "done_reason": reason,
            "total_duration": round(finish.total_seconds * NANO),
            "load_duration": 0,
            "prompt_eval_count": finish.usage.prompt_tokens,
            "prompt_eval_duration": round((first - finish.queue_seconds) * NANO),
            "eval_count": finish.usage.completion_tokens,
            "eval_duration": round((finish.total_seconds - first) * NANO),
        }
        empty = {"message": Message()} if self.chat else {"response": ""}
        return line_of(self.job.card.id, **empty, **figures)


def line_of(model: str, **fields: Any) -> Line:
    """Return a line of now."""
    return Line(model=model, created_at=datetime.now(UTC).isoformat(), **fields)


def loaded(model: str, *, chat: bool) -> Line:
    """Return the answer to who only asks for the model to be there."""
    said: dict[str, Any] = {"message": Message()} if chat else {"response": ""}
    return line_of(model, **said, done=True, done_reason="load")


def _call(call: Any) -> ToolCall:
    try:
        arguments = json.loads(call["arguments"])
    except (ValueError, RecursionError):  # a call that was cut short
        arguments = {}
    made = arguments if isinstance(arguments, dict) else {}
    return ToolCall(CalledFunction(call["name"], made))
