"""From the engine's events to a message: its events in order, or the whole of it."""

from collections.abc import Iterator

from attrs import define, field

from mlxserve_hookspecs import Finish, GenerationEvent
from mlxserve_plugins.anthropic.answers import (
    Ending,
    Event,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    StopReason,
    ThinkingTokens,
    Usage,
)
from mlxserve_plugins.anthropic.blocks import BlockWriter, assembled
from mlxserve_plugins.anthropic.jobs import Job
from mlxserve_plugins.openai.chat import MakeParser, SpokenChoice, is_forced, meter_of
from mlxserve_plugins.openai.replies import ended


@define(eq=False)
class MessageReply:
    """The reply to one request."""

    job: Job
    make_parser: MakeParser
    _spoken: SpokenChoice = field(init=False)
    _blocks: BlockWriter = field(init=False)
    _events: list[Event] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Make the parser of its text."""
        job = self.job
        forced = is_forced(job.request)
        self._spoken = SpokenChoice(
            self.make_parser(job.text, job.tools, job.reasoning, forced),
            meter=meter_of(job.text, job.reasoning),
        )
        self._blocks = BlockWriter(omit_thinking=job.omit_thinking, one_call=job.one_call)

    def opening(self) -> MessageStart:
        """Return the first event. What of the prompt was cached is known at the end only."""
        return MessageStart(self._message(Usage(input_tokens=len(self.job.request.prompt))))

    def events(self, event: GenerationEvent) -> Iterator[Event]:
        """Yield what one of the engine's events adds, the end of the message if it is the last.

        Raises:
            RequestError: The reply failed.
        """
        yield from self._blocks.write(self._spoken.read(event))
        if event.finish is not None:
            reason = ended(event.finish)
            yield from self._blocks.close()
            yield MessageDelta(self._ending(reason, event.finish), self._usage(event.finish))
            yield MessageStop()

    def add(self, event: GenerationEvent) -> None:
        """Keep what an event adds for ``whole``; raises like ``events``."""
        self._events.extend(self.events(event))

    def whole(self) -> Message:
        """Return the answer, when the reply has ended."""
        *_, last, _ = self._events
        assert isinstance(last, MessageDelta)
        message = self._message(last.usage)
        message.content = assembled(self._events)
        message.stop_reason = last.delta.stop_reason
        message.stop_sequence = last.delta.stop_sequence
        return message

    def _message(self, usage: Usage) -> Message:
        return Message(id=self.job.request.id, model=self.job.card.id, content=[], usage=usage)

    def _ending(self, reason: str, finish: Finish) -> Ending:
        if reason == "length":
            return Ending(self._cut(finish))
        if self._blocks.calls:
            return Ending("tool_use")
        if isinstance(finish.stopped_by, str):
            return Ending("stop_sequence", finish.stopped_by)
        return Ending("end_turn")

    def _cut(self, finish: Finish) -> StopReason:
        full = self.job.fills_window and finish.reason == "length"
        return "model_context_window_exceeded" if full else "max_tokens"

    def _usage(self, finish: Finish) -> Usage:
        cost = finish.usage
        return Usage(
            input_tokens=cost.prompt_tokens - cost.cached_tokens,
            cache_read_input_tokens=cost.cached_tokens,
            output_tokens=cost.completion_tokens,
            output_tokens_details=ThinkingTokens(self._spoken.reasoning_tokens),
        )
