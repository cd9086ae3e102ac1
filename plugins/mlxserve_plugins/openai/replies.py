"""What both endpoints' replies have in common: choices, their end, and what they cost."""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from attrs import define, evolve, field
from msgspec import UNSET, Struct, UnsetType

from mlxserve_hookspecs import Finish, GenerationEvent, RequestError, Usage
from mlxserve_plugins.openai.answers import (
    CompletionDetails,
    FinishReason,
    PromptDetails,
    UsageInfo,
)
from mlxserve_plugins.openai.jobs import Job


class Reply(Protocol):
    """Turns the engine's events into an endpoint's objects: chunks, or one whole."""

    job: Job

    def opening(self) -> Iterable[Struct]:
        """Return the chunks before any text."""

    def chunks(self, source: int, event: GenerationEvent) -> Iterable[Struct]:
        """Return what ``event`` of the request number ``source`` adds to a stream.

        Raises:
            RequestError: The choice failed.
        """

    def add(self, source: int, event: GenerationEvent) -> None:
        """Keep ``event`` for ``whole``; raises like ``chunks``."""

    def whole(self) -> Struct:
        """Return the answer, when every choice has ended."""

    def closing(self) -> Struct:
        """Return the chunk that ends a stream with its usage."""


@define(eq=False)
class Tally:
    """Counts what a job cost. The choices of one prompt share its tokens.

    ``seen`` are the reply's tokens so far, while it comes.
    """

    prompts: dict[int, Usage] = field(factory=dict)
    completion: int = 0
    reasoning: int = 0
    accepted: int = 0
    rejected: int = 0
    seen: int = 0

    def add(self, source: int, usage: Usage) -> None:
        """Count one choice of the request number ``source``."""
        known = self.prompts.get(source)
        if known is None or usage.cached_tokens > known.cached_tokens:
            self.prompts[source] = usage
        self.completion += usage.completion_tokens
        self.accepted += usage.accepted_draft_tokens
        self.rejected += usage.rejected_draft_tokens

    def info(self) -> UsageInfo:
        """Return it as OpenAI shapes it."""
        prompt = sum(usage.prompt_tokens for usage in self.prompts.values())
        tiers: Counter[str] = Counter()
        for usage in self.prompts.values():
            tiers.update(usage.cached_by_tier)
        return UsageInfo(
            prompt_tokens=prompt,
            completion_tokens=self.completion,
            total_tokens=prompt + self.completion,
            prompt_tokens_details=PromptDetails(
                sum(usage.cached_tokens for usage in self.prompts.values()), dict(tiers) or UNSET
            ),
            completion_tokens_details=CompletionDetails(
                self.reasoning, self.accepted, self.rejected
            ),
        )


def ended(finish: Finish) -> FinishReason:
    """Return why a choice ended: one that ran out of time keeps what it has.

    Raises:
        RequestError: It failed, or ran out of time before it had anything.
    """
    if finish.reason in {"stop", "length"}:
        return finish.reason
    if finish.reason == "timeout" and finish.usage.completion_tokens:
        return "length"
    if finish.error is not None:
        raise evolve(finish.error, told=True)  # as the end of a request, which is logged too
    status = 504 if finish.reason == "timeout" else 500
    message = f"the request ended early: {finish.reason}"
    raise RequestError(status=status, message=message, told=True)


def usage_so_far(job: Job, tally: Tally) -> UsageInfo | UnsetType | None:
    """Return a chunk's ``usage``: null in a stream that will end with it, else left out.

    A stream whose client wants it has it in every chunk.
    """
    if job.continuous_usage:
        prompt = sum(len(request.prompt) for request in job.requests)
        return UsageInfo(
            prompt_tokens=prompt,
            completion_tokens=tally.seen,
            total_tokens=prompt + tally.seen,
            prompt_tokens_details=PromptDetails(0),
            completion_tokens_details=CompletionDetails(0, 0, 0),
        )
    return no_usage_yet(job)


def no_usage_yet(job: Job) -> UnsetType | None:
    """Return a chunk's ``usage``: null in a stream that will end with it, else left out."""
    return None if job.include_usage else UNSET
