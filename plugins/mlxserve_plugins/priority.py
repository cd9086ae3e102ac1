"""Serve requests by their ``priority`` field, lower first; waiting makes a request more urgent."""

from collections.abc import Sequence

from attrs import define, frozen
from attrs.validators import gt

from mlxserve_hookspecs import Candidate, Load, SchedulingPolicy, hookimpl, option


@frozen
class PriorityOptions:
    """Order requests by priority and age."""

    aging_s: float = option(
        10.0,
        "seconds of waiting that count as much as one step of priority",
        flag="--priority-aging-s",
        check=gt(0.0),
    )


@define
class Priority:
    """Lower numbers first, with aging, so that nobody starves."""

    options: PriorityOptions

    @hookimpl
    def make_policy(self) -> SchedulingPolicy:
        """Answer always."""
        return PriorityPolicy(self.options.aging_s)


@frozen
class PriorityPolicy:
    """Ranks by priority minus age; every ``aging`` seconds of waiting are one step up.

    Two requests keep their order for as long as both wait, since both age alike: a late urgent one
    overtakes an early one only within ``aging`` seconds per step between them.
    """

    aging: float

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Return the most urgent first."""
        return sorted(waiting, key=lambda c: (self.urgency(c, now), c.arrived))

    def prefill_tokens(self, load: Load) -> int:
        """Return small chunks beside decoding rows, large ones alone."""
        return load.chunk_shared if load.decoding else load.chunk_alone

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        """Return the least urgent; of equals the youngest."""
        return max(running, key=lambda c: (self.urgency(c, now), c.arrived), default=None)

    def urgency(self, candidate: Candidate, now: float) -> float:
        """Return the rank of ``candidate``; less is sooner."""
        return candidate.priority - (now - candidate.arrived) / self.aging
