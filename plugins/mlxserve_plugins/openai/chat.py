"""Chat replies: role, content, reasoning, tool calls."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from attrs import define, field
from msgspec import UNSET

from mlxserve_hookspecs import (
    GenerationEvent,
    GenerationRequest,
    OutputDelta,
    OutputParser,
    TextCodec,
    TokenLogprob,
)
from mlxserve_plugins.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from mlxserve_plugins.openai.jobs import Job
from mlxserve_plugins.openai.logprobs import TokenNames, chat_logprobs
from mlxserve_plugins.openai.replies import Tally, ended, usage_so_far
from mlxserve_plugins.tools.thinking import Meter

MakeParser: TypeAlias = Callable[..., OutputParser | None]
OWN_ID: Final = 8
"""Characters of an id of the model's own; a shorter one is a number, as the next reply has too."""


@define(eq=False)
class SpokenChoice:
    """One choice as far as it has come.

    Attributes:
        parser: Splits its text; ``None`` when all text is content.
        calls: Tool calls so far.
        meter: Counts the tokens of thinking; without one they are counted by the parser's words.
        reasoning_tokens: Tokens that were thought and not said.
        content: The pieces kept for a whole reply, likewise ``reasoning`` and ``logprobs``.
    """

    parser: OutputParser | None
    calls: list[ToolCall] = field(factory=list)
    reasoning_tokens: int = 0
    content: list[str] = field(factory=list)
    reasoning: list[str] = field(factory=list)
    logprobs: list[TokenLogprob] = field(factory=list)
    finish: FinishReason = "stop"
    meter: Meter | None = field(default=None, kw_only=True)
    _undecided: int = 0
    _begun: int = 0

    def read(self, event: GenerationEvent) -> OutputDelta:
        """Return what the event's text is, and what was held back before if it is the last."""
        if self.parser is None:
            return OutputDelta(content=event.text)
        delta = self.parser.feed(event.text)
        if event.finish is not None:
            delta += self.parser.finish()
        self._count(delta, event.tokens)
        return delta

    def called(self, delta: OutputDelta) -> list[ToolCall]:
        """Name the calls that became complete, and keep them."""
        made = [
            ToolCall(_id(call.get("id")), FunctionCall(call["name"], call["arguments"]))
            for call in delta.tool_calls
        ]
        self.calls.extend(made)
        return made

    def fragments(self, delta: OutputDelta) -> list[ToolCallDelta]:
        """Return what a stream tells of calls; ``called`` keeps those that are complete."""
        made: dict[int, ToolCallDelta] = {}
        for part in delta.pieces(self._begun):
            if part.kind != "call":
                continue
            one = made.setdefault(part.index, ToolCallDelta(part.index, FunctionDelta()))
            one.function.arguments += part.arguments
            if part.name:
                one.id, one.type, one.function.name = _id(part.id), "function", part.name
                self._begun = part.index + 1
        return [one for one in made.values() if one.id or one.function.arguments]

    def why(self, reason: FinishReason) -> FinishReason:
        """Return why it ended, as a caller of tools sees it."""
        return "tool_calls" if reason == "stop" and self.calls else reason

    def _count(self, delta: OutputDelta, tokens: Sequence[int]) -> None:
        if self.meter is not None:
            self.meter.add(tokens)
            self.reasoning_tokens = self.meter.count
            return
        # Tokens whose text is held back belong to whatever comes out next.
        self._undecided += len(tokens)
        if delta.reasoning:
            self.reasoning_tokens += self._undecided
        if delta.reasoning or delta.content or delta.tool_calls:
            self._undecided = 0


@define(eq=False)
class ChatReply:
    """The reply to a chat request."""

    job: Job
    make_parser: MakeParser
    tally: Tally = field(factory=Tally)
    choices: list[SpokenChoice] = field(init=False)
    names: TokenNames = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make each choice with a parser of its own."""
        job = self.job
        self.names = TokenNames(job.text)
        self.choices = [
            SpokenChoice(
                self.make_parser(job.text, job.tools, job.reasoning, is_forced(job.requests[0])),
                meter=meter_of(job.text, job.reasoning),
            )
            for _ in range(job.choices)
        ]

    def opening(self) -> Iterable[ChatChunk]:
        """Return a chunk per choice that says who speaks."""
        for index in range(self.job.choices):
            yield self._chunk(ChatChunkChoice(index, ChatDelta(role="assistant", content="")))

    def chunks(self, source: int, event: GenerationEvent) -> Iterable[ChatChunk]:
        """Return what the event adds, then the end of its choice if it is the last."""
        choice = self.choices[event.choice]
        self.tally.seen += len(event.tokens)
        delta = choice.read(event)
        logprobs = self._logprobs(event.logprobs)
        said = self._said(choice, delta)
        if said is not None or logprobs is not None:
            said = said or ChatDelta(content="")
            yield self._chunk(ChatChunkChoice(event.choice, said, logprobs=logprobs))
        if event.finish is not None:
            reason = choice.why(ended(event.finish))
            self._tally(source, choice, event)
            yield self._chunk(ChatChunkChoice(event.choice, ChatDelta(), finish_reason=reason))

    def add(self, source: int, event: GenerationEvent) -> None:
        """Keep the event for ``whole``."""
        choice = self.choices[event.choice]
        delta = choice.read(event)
        choice.called(delta)
        choice.content.append(delta.content)
        choice.reasoning.append(delta.reasoning)
        choice.logprobs.extend(event.logprobs)
        if event.finish is not None:
            choice.finish = choice.why(ended(event.finish))
            self._tally(source, choice, event)

    def whole(self) -> ChatCompletion:
        """Return the answer."""
        return ChatCompletion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.card.id,
            system_fingerprint=self.job.fingerprint,
            choices=[self._whole(at, choice) for at, choice in enumerate(self.choices)],
            usage=self.tally.info(),
        )

    def closing(self) -> ChatChunk:
        """Return the chunk with the usage."""
        chunk = self._chunk()
        chunk.usage = self.tally.info()
        return chunk

    def _chunk(self, *choices: ChatChunkChoice) -> ChatChunk:
        return ChatChunk(
            id=self.job.id,
            created=self.job.created,
            model=self.job.card.id,
            system_fingerprint=self.job.fingerprint,
            choices=list(choices),
            usage=usage_so_far(self.job, self.tally),
        )

    def _said(self, choice: SpokenChoice, delta: OutputDelta) -> ChatDelta | None:
        calls = choice.fragments(delta)
        choice.called(delta)
        if not (calls or delta.content or delta.reasoning):
            return None
        return ChatDelta(
            content=delta.content or UNSET,
            reasoning_content=delta.reasoning or UNSET,
            tool_calls=calls or UNSET,
        )

    def _whole(self, index: int, choice: SpokenChoice) -> ChatChoice:
        content, reasoning = "".join(choice.content), "".join(choice.reasoning)
        message = ChatMessage(
            content=content if content or not choice.calls else None,
            reasoning_content=reasoning or UNSET,
            tool_calls=choice.calls or UNSET,
        )
        return ChatChoice(index, message, choice.finish, self._all_logprobs(choice))

    def _logprobs(self, found: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        wanted = self.job.logprobs is not None and found
        return chat_logprobs(found, self.names) if wanted else None

    def _all_logprobs(self, choice: SpokenChoice) -> ChatLogprobs | None:
        wanted = self.job.logprobs is not None
        return chat_logprobs(choice.logprobs, self.names) if wanted else None

    def _tally(self, source: int, choice: SpokenChoice, event: GenerationEvent) -> None:
        if event.finish is not None:
            self.tally.add(source, event.finish.usage)
            self.tally.reasoning += choice.reasoning_tokens


def is_forced(request: GenerationRequest) -> bool:
    """Return whether a constraint makes a request's replies calls."""
    demand = request.constraint or {}
    return demand.get("type") == "tool_choice" and demand.get("tool_choice") != "auto"


def meter_of(text: TextCodec, reasoning: bool) -> Meter | None:
    """Return what counts the thinking of one choice; ``None`` if the model marks none."""
    return Meter(text, reasoning) if text.markup.think_end else None


def _id(own: str | None) -> str:
    """Return a call's id: the model's own, which some templates want back, if it is one."""
    return own if own and len(own) >= OWN_ID else f"call_{uuid.uuid4().hex[:24]}"
