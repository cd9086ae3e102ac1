"""Hooks that decide who runs: order of admission, prefill per iteration, victims."""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from mlxserve_hookspecs.markers import hookspec


@frozen(kw_only=True)
class Candidate:
    """A request as a policy sees it.

    Attributes:
        id: The request's id.
        priority: Lower runs earlier, where the policy cares.
        tenant: Who asked.
        arrived: Monotonic seconds.
        prompt_tokens: Length of the prompt.
        remaining_prefill: Prompt tokens whose KV is not there yet.
        generated: Tokens generated so far.
        preempted: How often its rows were taken back.
    """

    id: str
    priority: int
    tenant: str
    arrived: float
    prompt_tokens: int
    remaining_prefill: int
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
    """Orders and picks; the core acts. Called on the engine thread, once per iteration each."""

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Return ``waiting`` in the order of admission."""

    def prefill_tokens(self, load: Load) -> int:
        """Return how many prompt tokens this iteration may prefill, at least 1."""

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        """Return whose rows to take back when KV runs out; ``None`` to let nobody go."""


@hookspec(firstresult=True)
def make_policy() -> SchedulingPolicy | None:
    """Make the scheduling policy.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass.

    Called once at start, on the engine thread, before the model is loaded.
    """
