"""What clients are told of their sequences: tokens as they come, and how each one ends."""

import time
from collections.abc import Sequence as Items

from attrs import define, evolve, field
from pluggy import PluginManager

from mlxserve.batch.sequence import Sequence
from mlxserve.batch.speculation import Speculator
from mlxserve.engine.outputs import Ending, finish
from mlxserve.engine.scheduler import Scheduler
from mlxserve.hooks import tell
from mlxserve_hookspecs import (
    Finish,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    RequestError,
    Usage,
    lifecycle,
)


@define(eq=False)
class Replies:
    """Gathers an iteration's events, and takes sequences that end out of the batch.

    Attributes:
        plugins: Who hears of each ending.
        scheduler: Whose rows are freed.
        speculator: Whose guesses are forgotten.
        counters: Running totals by name.
    """

    plugins: PluginManager
    scheduler: Scheduler
    speculator: Speculator
    counters: dict[str, float]
    _events: list[GenerationEvent] = field(factory=list)

    def add(self, event: GenerationEvent) -> None:
        """Tell something of a sequence that goes on."""
        self._events.append(event)

    def take(self) -> Items[GenerationEvent]:
        """Return what was told since the last call."""
        events, self._events = self._events, []
        return events

    def count(self, name: str, amount: float) -> None:
        """Add to a counter."""
        self.counters[name] = self.counters.get(name, 0.0) + amount

    def refuse(self, request: GenerationRequest, error: RequestError) -> None:
        """Answer each choice of a request that becomes no sequence."""
        usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=0)
        for choice in range(request.choices):
            end = Finish(reason="error", usage=usage, error=error)
            self.add(GenerationEvent(request_id=request.id, choice=choice, finish=end))
            self._tell(request, choice, end)

    def fail(
        self,
        sequence: Sequence,
        error: RequestError,
        reason: FinishReason = "error",
        now: float = 0.0,
        *,
        keep: bool = True,
    ) -> None:
        """End one sequence with an error; siblings that have not forked yet go on."""
        self.scheduler.orphan(sequence)
        self.end(sequence, Ending(reason), now or time.monotonic(), error=error, keep=keep)

    def end(
        self,
        sequence: Sequence,
        ending: Ending,
        now: float,
        event: GenerationEvent | None = None,
        error: RequestError | None = None,
        *,
        keep: bool = True,
    ) -> None:
        """End a sequence, with ``event`` as its last; one that has ended stays as it is.

        Without ``keep`` nothing that it computed is kept for others: it cannot be trusted.
        """
        if not sequence.alive:
            return
        self.scheduler.finish(sequence, keep=keep)
        self.speculator.forget((sequence.uid,))
        done = finish(sequence, ending, now, error)
        base = event or GenerationEvent(request_id=sequence.request.id, choice=sequence.choice)
        self.add(evolve(base, finish=done))
        self.count("prompt_tokens", done.usage.prompt_tokens if sequence.choice == 0 else 0)
        self.count("generation_tokens", done.usage.completion_tokens)
        self.count(f"finished_{ending.reason}", 1)
        self._tell(sequence.request, sequence.choice, done)

    def _tell(self, request: GenerationRequest, choice: int, done: Finish) -> None:
        tell(self.plugins, lifecycle.request_finished)(request=request, choice=choice, finish=done)
