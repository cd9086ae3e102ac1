"""Hooks that decide who runs: order of admission, prefill per iteration, victims."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from attrs import field, frozen

from mlxserve_hookspecs.markers import hookspec

SchedulingPhase: TypeAlias = Literal["waiting", "prefilling", "ready", "decoding"]


@frozen(kw_only=True)
class Candidate:
    """One choice of a request as a policy sees it.

    Attributes:
        id: The request's id; its choices share it.
        uid: The choice's own number, for as long as the engine runs.
        phase: ``waiting`` in the queue, ``prefilling``, ``ready``: prefilled, and without a place
            in the batch, or ``decoding``.
        priority: Lower runs earlier, where the policy cares.
        tenant: Who asked.
        arrived: Monotonic seconds.
        deadline: Monotonic seconds at which it ends if it has not got on: its first token's time
            limit, then the whole reply's; ``None`` without one.
        prompt_tokens: Length of the prompt.
        remaining_prefill: Tokens to prefill: prompt tokens whose KV is not there yet and, after a
            preemption, generated ones.
        cached_tokens: Tokens whose KV a look-up has found so far. The first few of the queue are
            looked up before they are admitted; 0 for the others.
        cached_key: Hash of the last block found: equal for those that share all they have found.
        generated: Tokens generated so far.
        preempted: How often its rows were taken back.
    """

    id: str
    priority: int
    tenant: str
    arrived: float
    prompt_tokens: int
    remaining_prefill: int
    uid: int = 0
    phase: SchedulingPhase = "waiting"
    deadline: float | None = None
    cached_tokens: int = 0
    cached_key: bytes | None = field(default=None, repr=False)
    generated: int = 0
    preempted: int = 0


@frozen(kw_only=True)
class Load:
    """How busy this iteration is.

    Attributes:
        decoding: Rows that decode.
        prefilling: Requests in prefill.
        waiting: Requests in the queue.
        chunk_alone: Configured prefill tokens per iteration when nobody decodes.
        chunk_shared: Configured prefill tokens per iteration beside decoding rows.
    """

    decoding: int
    prefilling: int
    waiting: int
    chunk_alone: int
    chunk_shared: int


class SchedulingPolicy(Protocol):
    """Orders and picks; the core acts. Called on the engine thread, in every iteration.

    Where it fails the core goes on as first come, first served would.
    """

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Return ``waiting`` in the order in which they are to get on.

        Asked for those that wait in the queue: who is admitted, and whose cached blocks are
        loaded first. Asked in the same way for those in prefill, whose prompts are run in this
        order, and for those that are ready, who decode in this order as places come free; the
        ``phase`` says which. Who is left out stays where it is in this iteration.
        """

    def prefill_tokens(self, load: Load) -> int:
        """Return how many prompt tokens this iteration may prefill, at least 1."""

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        """Return whose rows to take back when KV runs out; ``None`` to let nobody go."""


@hookspec(firstresult=True)
def make_policy() -> SchedulingPolicy | None:
    """Make the scheduling policy.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass.

    Called once at start, on the engine thread, before the model is loaded. A plugin that raises
    here, or answers with what is no policy, ends the start.
    """
