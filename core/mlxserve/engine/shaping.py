"""Have plugins shape a reply: constraints, made beside the engine thread, and stop conditions."""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from attrs import define, field, frozen
from pluggy import PluginManager

from mlxserve.batch.sequence import Sequence
from mlxserve.engine.problems import as_request_error, unconstrained
from mlxserve.hooks import ask, gather
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    RequestError,
    TextCodec,
    generation,
)


@frozen(eq=False)
class Pending:
    """A request whose constraints are being made.

    Attributes:
        family: Its choices, of which the first is in the queue.
        made: One constraint for each.
    """

    family: tuple[Sequence, ...]
    made: Future[list[Constraint]]

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return any(sequence.alive for sequence in self.family)


@define(eq=False)
class Shaping:
    """What plugins bring for one sequence each.

    A constraint may take long to make, so it is made on a thread beside the engine's, in the order
    of arrival; its sequence waits in the queue, and those behind it pass. Everything else here runs
    on the engine thread.

    Attributes:
        plugins: Who is asked.
        text: The tokenizer.
        vocab: How many tokens the model knows.
        wake: Wakes the engine when a constraint is there.
        agreement: The ranks': a sequence gets its constraint on all of them in one iteration.
    """

    plugins: PluginManager
    text: TextCodec
    vocab: int
    wake: Callable[[], None]
    agreement: Agreement = ALONE
    _pending: list[Pending] = field(factory=list)
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="constraints")
    )

    def constrain(self, family: Items[Sequence]) -> None:
        """Have the constraints of a request's choices made; the first stays in the queue."""
        family[0].held_back = True
        made = self._pool.submit(self._make, family[0].request)
        made.add_done_callback(lambda _: self.wake())
        self._pending.append(Pending(tuple(family), made))

    def take(self) -> Iterator[tuple[Sequence, RequestError]]:
        """Give constraints that are made to their sequences; yield those that can have none."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        ready = self.agreement.least([int(one.made.done()) for one in pending])
        for one, done in zip(pending, ready, strict=True):
            if not one.wanted:
                one.made.cancel()
            elif not done:
                self._pending.append(one)
            else:
                one.family[0].held_back = False
                yield from self._give(one)

    def watch(self, sequence: Sequence) -> None:
        """Give a sequence the conditions on which plugins end it."""
        asked = gather(self.plugins, generation.make_stop_condition, forgiving=True)
        sequence.conditions = asked(
            request=sequence.request, choice=sequence.choice, text=self.text
        )

    def close(self) -> None:
        """Make nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _give(self, one: Pending) -> Iterator[tuple[Sequence, RequestError]]:
        error = one.made.exception()
        if isinstance(error, Exception):
            told = as_request_error(error)
            yield from ((sequence, told) for sequence in one.family)
            return
        for sequence, constraint in zip(one.family, one.made.result(), strict=True):
            sequence.constraint = constraint

    def _make(self, request: GenerationRequest) -> list[Constraint]:
        make = partial(
            ask(self.plugins, generation.make_constraint),
            request=request,
            text=self.text,
            vocab_size=self.vocab,
        )
        made = [make() for _ in range(request.choices)]
        constraints = [one for one in made if one is not None]
        if len(constraints) < len(made):
            raise unconstrained()
        return constraints
