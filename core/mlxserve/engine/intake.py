"""From messages to sequences: what is let in, what is refused at the door, what is taken back."""

from collections.abc import Callable

from attrs import define

from mlxserve.batch.sequence import Sequence, sequences_of
from mlxserve.engine.outputs import Ending
from mlxserve.engine.problems import shutting_down, too_long, unsound
from mlxserve.engine.replies import Replies
from mlxserve.engine.scheduler import Scheduler
from mlxserve.engine.shaping import Shaping
from mlxserve.inbox import Cancel, ClearCache, Drain, Message, Submit
from mlxserve_hookspecs import Pooling, RequestError


@define(eq=False)
class Intake:
    """Does what messages ask for. Engine thread.

    Attributes:
        shaping: Has constraints and stop conditions made.
        scheduler: Whose queue requests join.
        replies: Where refusals go.
        unpooled: Says why vectors cannot be had, if they cannot.
        draining: Monotonic seconds by which all must have ended; ``None``: requests are taken.
    """

    shaping: Shaping
    scheduler: Scheduler
    replies: Replies
    unpooled: Callable[[Pooling], RequestError | None]
    draining: float | None = None
    _uids: int = 0

    def receive(self, message: Message, now: float) -> None:
        """Do what one message asks for."""
        match message:
            case Submit():
                self._submit(message)
            case Cancel():
                self._cancel(message.request_id, now)
            case Drain():
                self.draining = message.deadline
            case ClearCache():
                message.dropped.update(self.scheduler.cache.clear())
                message.done.set()

    def _submit(self, message: Submit) -> None:
        request = message.request
        if error := self._refusal(message):
            self.replies.refuse(request, error)
            return
        made = self._sequences(message)
        self.scheduler.enqueue(made[0])
        if request.pooling is not None:
            return
        needed, room = len(request.prompt) + 1, self.scheduler.capacity.tokens
        for sequence in made:
            if needed > room:
                sequence.siblings = []
                self.replies.fail(sequence, too_long(needed, room))
            else:
                self.shaping.watch(sequence)
        if request.constraint is not None and needed <= room:
            self.shaping.constrain(made)

    def _refusal(self, message: Submit) -> RequestError | None:
        if self.draining is not None:
            return shutting_down()
        request = message.request
        error = unsound(request, self.shaping.vocab)
        return error or (self.unpooled(request.pooling) if request.pooling else None)

    def _sequences(self, message: Submit) -> list[Sequence]:
        request, first = message.request, self._uids
        self._uids += request.choices
        room = self.scheduler.capacity.tokens - len(request.prompt)
        return sequences_of(
            request,
            arrived=message.arrived,
            seed=message.seed,
            uids=range(first, self._uids),
            text=self.shaping.text,
            max_tokens=min(request.stop.max_tokens, max(room, 0)),
        )

    def _cancel(self, request_id: str, now: float) -> None:
        for sequence in [s for s in self.scheduler.all if s.request.id == request_id]:
            sequence.siblings = []
            self.replies.end(sequence, Ending("cancelled"), now)
