"""Serve the request with the least prompt left to read first; waiting shortens a prompt."""

from collections.abc import Sequence

from attrs import define, frozen
from attrs.validators import ge

from mlxserve_hookspecs import Candidate, Load, SchedulingPolicy, hookimpl, option


@frozen
class ShortestFirstOptions:
    """Order requests by the length of what is left of their prompts."""

    aging: float = option(
        100.0,
        "tokens that a prompt counts less for every second of waiting; 0 lets long ones starve",
        flag="--shortest-first-aging",
        check=ge(0.0),
    )


@define
class ShortestFirst:
    """The shortest prompt first, with aging, in place of first come, first served."""

    options: ShortestFirstOptions

    @hookimpl
    def make_policy(self) -> SchedulingPolicy:
        """Answer always."""
        return ShortestFirstPolicy(self.options.aging)


@frozen
class ShortestFirstPolicy:
    """Ranks by remaining prefill (shortest job first), less ``aging`` tokens per second waited.

    Attributes:
        aging: Tokens per second.
    """

    aging: float

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Return the least work first; of equals the oldest."""
        return sorted(waiting, key=lambda c: (self.work(c, now), c.arrived))

    def prefill_tokens(self, load: Load) -> int:
        """Return small chunks beside decoding rows, large ones alone."""
        return load.chunk_shared if load.decoding else load.chunk_alone

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        """Return who has most work left; of equals the youngest."""
        return max(running, key=lambda c: (self.work(c, now), c.arrived), default=None)

    def work(self, candidate: Candidate, now: float) -> float:
        """Return what counts as left of a prompt, in tokens; less is sooner."""
        return candidate.remaining_prefill - self.aging * (now - candidate.arrived)
