"""Text replies: several prompts, echo, the best of several."""

from collections.abc import Iterable

from attrs import define, field

from mlxserve_hookspecs import GenerationEvent, TokenLogprob
from mlxserve_plugins.openai.answers import (
    FinishReason,
    TextChoice,
    TextCompletion,
    TextLogprobs,
)
from mlxserve_plugins.openai.jobs import Job
from mlxserve_plugins.openai.logprobs import (
    LEAST,
    OffsetCounter,
    TokenNames,
    finite,
    join,
    prompt_text_logprobs,
    text_logprobs,
)
from mlxserve_plugins.openai.replies import Tally, ended, usage_so_far


@define(eq=False)
class WrittenChoice:
    """One choice as far as it has come; the pieces are kept for a whole reply."""

    offsets: OffsetCounter = field(factory=OffsetCounter)
    text: list[str] = field(factory=list)
    logprobs: list[TokenLogprob] = field(factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish: FinishReason | None = None
    begun: bool = False

    @property
    def mean_logprob(self) -> float:
        """How likely the model finds it, per token: what ``best_of`` ranks by."""
        values = [finite(one.logprob) for one in self.logprobs]
        return sum(values) / len(values) if values else LEAST


@define(eq=False)
class CompletionReply:
    """The reply to a completion request."""

    job: Job
    tally: Tally = field(factory=Tally)
    choices: list[list[WrittenChoice]] = field(init=False)
    names: TokenNames = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the choices of each prompt."""
        self.names = TokenNames(self.job.text)
        echoes = self.job.echoes or [""] * len(self.job.requests)
        self.choices = [
            [WrittenChoice(OffsetCounter(echo.encode())) for _ in range(request.choices)]
            for request, echo in zip(self.job.requests, echoes, strict=True)
        ]

    def opening(self) -> Iterable[TextCompletion]:
        """Return nothing: a text has no opening."""
        return ()

    def chunks(self, source: int, event: GenerationEvent) -> Iterable[TextCompletion]:
        """Return what the event adds; the end of a choice comes with its last text."""
        choice = self.choices[source][event.choice]
        self.tally.seen += len(event.tokens)
        text = self._begin(source, choice, event) + event.text
        logprobs = self._logprobs(source, choice, event.prompt_logprobs, event.logprobs)
        reason = None if event.finish is None else ended(event.finish)
        if event.finish is not None:
            self.tally.add(source, event.finish.usage)
        if text or logprobs is not None or reason is not None:
            index = source * self.job.choices + event.choice
            yield self._completion([TextChoice(index, text, reason, logprobs)])

    def add(self, source: int, event: GenerationEvent) -> None:
        """Keep the event for ``whole``."""
        choice = self.choices[source][event.choice]
        choice.text.append(self._begin(source, choice, event) + event.text)
        choice.logprobs.extend(event.logprobs)
        if event.prompt_logprobs is not None:
            choice.prompt_logprobs = event.prompt_logprobs
        if event.finish is not None:
            choice.finish = ended(event.finish)
            self.tally.add(source, event.finish.usage)

    def whole(self) -> TextCompletion:
        """Return the answer: of each prompt's choices as many as are wanted, the best first."""
        answer = self._completion(
            [
                self._whole(source, source * self.job.choices + rank, choice)
                for source, choices in enumerate(self.choices)
                for rank, choice in enumerate(self._best(choices))
            ]
        )
        answer.usage = self.tally.info()
        return answer

    def closing(self) -> TextCompletion:
        """Return the chunk with the usage."""
        chunk = self._completion([])
        chunk.usage = self.tally.info()
        return chunk

    def _completion(self, choices: list[TextChoice]) -> TextCompletion:
        return TextCompletion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.card.id,
            system_fingerprint=self.job.fingerprint,
            choices=choices,
            usage=usage_so_far(self.job, self.tally),
        )

    def _begin(self, source: int, choice: WrittenChoice, event: GenerationEvent) -> str:
        if choice.begun or event.prefilled is not None:
            return ""
        choice.begun = True
        return self.job.echoes[source] if self.job.echoes is not None else ""

    def _best(self, choices: list[WrittenChoice]) -> list[WrittenChoice]:
        if len(choices) == self.job.choices:
            return choices
        ranked = sorted(choices, key=lambda choice: choice.mean_logprob, reverse=True)
        return ranked[: self.job.choices]

    def _whole(self, source: int, index: int, choice: WrittenChoice) -> TextChoice:
        found = self._logprobs(source, choice, choice.prompt_logprobs, choice.logprobs)
        return TextChoice(index, "".join(choice.text), choice.finish, found)

    def _logprobs(
        self,
        source: int,
        choice: WrittenChoice,
        prompt: tuple[TokenLogprob, ...] | None,
        reply: Iterable[TokenLogprob],
    ) -> TextLogprobs | None:
        if self.job.logprobs is None:
            return None
        form = None
        if prompt is not None:
            tokens = self.job.requests[source].prompt
            form = prompt_text_logprobs(tokens, prompt, self.names, choice.offsets)
        own = text_logprobs(reply, self.names, choice.offsets)
        return own if form is None else join(form, own)
