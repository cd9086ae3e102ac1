"""Count what became of drafts."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define

from mlxserve_hookspecs import Iteration, Verdict


@define(eq=False)
class Tally:
    """Totals since the start; written on the engine thread, read on any.

    Attributes:
        drafts: Drafts that were verified.
        drafted: Their tokens.
        accepted: Those that stayed.
        passes: Iterations with drafts.
        seconds: What those took.
        plain_steps: Iterations without drafts.
    """

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    passes: int = 0
    seconds: float = 0.0
    plain_steps: int = 0
    _verified: bool = False

    def verified(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Count a pass."""
        self.passes += 1
        self.seconds += seconds
        self.drafts += sum(v.drafted > 0 for v in verdicts)
        self.drafted += sum(v.drafted for v in verdicts)
        self.accepted += sum(v.accepted for v in verdicts)
        self._verified = True

    def iterated(self, iteration: Iteration) -> None:
        """Count an iteration, unless its tokens are those of a pass with drafts."""
        self.plain_steps += bool(iteration.decoded) and not self._verified
        self._verified = False

    def figures(self, mode: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the totals as ``GET /v1/spec_decode/metrics`` does."""
        steps = self.passes + self.plain_steps
        return {
            "mode": mode,
            "acceptance_rate": _ratio(self.accepted, self.drafted),
            "average_accepted_tokens": _ratio(self.accepted, self.drafts),
            "num_drafts": self.drafts,
            "num_draft_tokens": self.drafted,
            "num_accepted_tokens": self.accepted,
            "mode_distribution": {
                "speculative": _ratio(self.passes, steps),
                "plain": _ratio(self.plain_steps, steps),
            },
            "steps": {"speculative": self.passes, "plain": self.plain_steps},
            "verification_seconds": round(self.seconds, 6),
            "controller": dict(state),
        }


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
