"""Serve requests in the order in which they came."""

from collections.abc import Sequence

from attrs import define

from mlxserve_hookspecs import Candidate, Load, SchedulingPolicy, hookimpl


@define
class Fcfs:
    """First come, first served; who came last gives way first."""

    @hookimpl
    def make_policy(self) -> SchedulingPolicy:
        """Answer always."""
        return FcfsPolicy()


class FcfsPolicy:
    """A queue. A preempted request keeps its place: it came when it came."""

    def order(self, waiting: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Return the oldest first."""
        del now
        return sorted(waiting, key=lambda c: c.arrived)

    def prefill_tokens(self, load: Load) -> int:
        """Return small chunks beside decoding rows, large ones alone."""
        return load.chunk_shared if load.decoding else load.chunk_alone

    def victim(self, running: Sequence[Candidate], now: float) -> Candidate | None:
        """Return the youngest: least work is lost, and the oldest always gets on."""
        del now
        return max(running, key=lambda c: c.arrived, default=None)
