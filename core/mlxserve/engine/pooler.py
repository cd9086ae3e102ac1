"""Requests for vectors, beside those for replies: their passes take turns with prompts."""

import time

import structlog
from attrs import define

from mlxserve.batch.embedder import Embedder, pooling_of
from mlxserve.batch.sequence import Sequence
from mlxserve.engine.outputs import Ending
from mlxserve.engine.problems import as_request_error
from mlxserve.engine.replies import Replies
from mlxserve.engine.scheduler import Scheduler
from mlxserve_hookspecs import GenerationEvent, Pooled

log = structlog.get_logger("mlxserve.engine")


@define(eq=False)
class Pooler:
    """Runs texts for ``Scheduler.pooling``. Engine thread.

    Attributes:
        scheduler: Says who waits and how long a pass may be.
        embedder: Runs the passes.
        replies: Where vectors go.
    """

    scheduler: Scheduler
    embedder: Embedder
    replies: Replies
    _was_last: bool = False

    def takes_turn(self) -> bool:
        """Return whether the next pass is one over texts, not over prompts."""
        prompts = self.scheduler.has_prompts
        self._was_last = bool(self.scheduler.pooling) and not (prompts and self._was_last)
        return self._was_last

    def run(self) -> int:
        """Run a pass and tell what came of the one before; return how many tokens were run."""
        try:
            budget = self.scheduler.prefill_budget()
            tokens, found = self.embedder.run(self.scheduler.pooling, budget)
        except Exception as error:
            log.exception("a pass over texts failed")
            self.scheduler.agreement.survive(error)
            self.replies.count("failed_steps", 1)
            for sequence in self.embedder.lose() or list(self.scheduler.pooling):
                self.replies.fail(sequence, as_request_error(error))
            return 0
        now = time.monotonic()
        for sequence in self.embedder.running:
            sequence.admitted_at = sequence.admitted_at or now
        for sequence, vectors in found.items():
            self._tell(sequence, vectors, now)
        return tokens

    def _tell(self, sequence: Sequence, vectors: list[Pooled], now: float) -> None:
        event = GenerationEvent(request_id=sequence.request.id, pooled=tuple(vectors))
        sequence.pooled += len(vectors)
        if sequence.pooled < len(pooling_of(sequence).lengths):
            self.replies.add(event)
        else:
            self.replies.end(sequence, Ending("stop"), now, event)
