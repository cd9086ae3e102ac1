"""One response, from the engine's events to what its client gets, streamed or whole."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from attrs import define, field
from msgspec import UNSET

from mlxserve_hookspecs import GenerationEvent, OutputDelta, RequestError, TokenLogprob, Usage
from mlxserve_plugins.openai.answers import ContentLogprob
from mlxserve_plugins.openai.chat import MakeParser, SpokenChoice, is_forced, meter_of
from mlxserve_plugins.openai.logprobs import TokenNames, chat_logprobs
from mlxserve_plugins.openai.replies import ended
from mlxserve_plugins.responses.answers import (
    IncompleteDetails,
    InputDetails,
    OutputDetails,
    ResponseFault,
    ResponseObject,
    ResponseUsage,
)
from mlxserve_plugins.responses.events import (
    Completed,
    Created,
    Event,
    Failed,
    Incomplete,
    InProgress,
)
from mlxserve_plugins.responses.jobs import Job
from mlxserve_plugins.responses.store import Kept, Store
from mlxserve_plugins.responses.writing import Writer

FAULTS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


@define(eq=False)
class Reply:
    """Writes one response; keeps it in ``store`` when it has ended, if its client wants that."""

    job: Job
    make_parser: MakeParser
    store: Store
    response: ResponseObject = field(init=False)
    _choice: SpokenChoice = field(init=False)
    _writer: Writer = field(init=False)
    _names: TokenNames = field(init=False)
    _count: int = 0
    _held: list[TokenLogprob] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Begin with an empty response."""
        job = self.job
        parallel = job.body.parallel_tool_calls is not False
        self.response = begin(job)
        self._choice = SpokenChoice(
            self.make_parser(job.text, job.tools, job.reasoning, is_forced(job.request)),
            meter=meter_of(job.text, job.reasoning),
        )
        self._writer = Writer(job.box, summary=job.summary, parallel=parallel)
        self._names = TokenNames(job.text)

    def opening(self) -> list[Event]:
        """Return what a stream begins with."""
        return self._numbered([Created(response=self.response), self._in_progress()])

    def waiting(self) -> list[Event]:
        """Return a sign of life: clients give up on streams without events."""
        return self._numbered([self._in_progress()])

    def read(self, event: GenerationEvent) -> list[Event]:
        """Return what the engine's event adds, and the end if it is the last.

        Raises:
            RequestError: The reply failed.
        """
        why = None if event.finish is None else ended(event.finish)
        delta = self._choice.read(event)
        logprobs = self._logprobs(event, delta)
        pieces = delta.pieces(self._writer.calls)
        found = list(self._writer.take(pieces, logprobs))
        if event.finish is not None:
            found += self._end("completed" if why == "stop" else "incomplete", event.finish.usage)
        return self._numbered(found)

    def failing(self, error: RequestError) -> list[Event]:
        """Return the event that ends a stream because of ``error``."""
        code = FAULTS.get(error.status, error.code or "server_error")
        self.response.status = "failed"
        self.response.error = ResponseFault(code, error.message)
        self.response.output = self._writer.unfinished
        return self._numbered([Failed(response=self.response)])

    def _end(self, status: Literal["completed", "incomplete"], usage: Usage) -> Iterable[Event]:
        yield from self._writer.end(status)
        whole = self.response
        whole.status, whole.output = status, list(self._writer.items)
        whole.completed_at = int(time.time())
        whole.usage = usage_of(usage, self._choice.reasoning_tokens)
        if status == "incomplete":
            whole.incomplete_details = IncompleteDetails()
        if self.job.store:
            self.store.put(self.job.id, kept(self.job, whole))
        yield Completed(response=whole) if status == "completed" else Incomplete(response=whole)

    def _logprobs(self, event: GenerationEvent, delta: OutputDelta) -> list[ContentLogprob]:
        # Tokens whose text is held back belong to whatever comes out next.
        self._held += event.logprobs
        if not (delta.content or delta.reasoning or delta.tool_calls):
            return []
        held, self._held = self._held, []
        return chat_logprobs(held, self._names).content if delta.content and held else []

    def _in_progress(self) -> InProgress:
        return InProgress(response=self.response)

    def _numbered(self, events: Iterable[Event]) -> list[Event]:
        found = list(events)
        for event in found:
            event.sequence_number = self._count
            self._count += 1
        return found


def begin(job: Job) -> ResponseObject:
    """Return a response that has said nothing yet, with what was asked."""
    body, asked = job.body, job.body.reasoning
    sampling = job.request.sampling
    return ResponseObject(
        id=job.id,
        created_at=job.created,
        model=job.card.id,
        status="in_progress",
        output=[],
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        store=job.store,
        tools=job.box.echoed,
        tool_choice=body.tool_choice or "auto",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning={
            "effort": asked.effort if asked else None,
            "summary": asked.summary or asked.generate_summary if asked else None,
        },
        text={"format": (body.text and body.text.format) or {"type": "text"}},
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_logprobs=body.top_logprobs or 0,
        truncation=body.truncation or "disabled",
        metadata=body.metadata or {},
        service_tier="default",
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
    )


def usage_of(usage: Usage, reasoning: int) -> ResponseUsage:
    """Return what a reply cost, as this API shapes it."""
    cached = InputDetails(usage.cached_tokens, usage.cached_by_tier or UNSET)
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def kept(job: Job, response: ResponseObject) -> Kept:
    """Return a response as the store keeps it."""
    encode = msgspec.json.encode
    output: list[Any] = msgspec.to_builtins(response.output)
    own = [*job.past.given, *output]
    return Kept(
        tenant=job.tenant,
        response=encode(response),
        items=encode(job.past.given),
        history=encode([*job.past.earlier, *own]),
        ids=frozenset(_ids(own)),
    )


def _ids(items: Iterable[Any]) -> Iterator[str]:
    return (one["id"] for one in items if isinstance(one.get("id"), str))
