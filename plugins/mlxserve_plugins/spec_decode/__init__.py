"""Guess several tokens ahead and verify them in one pass, as far as that is faster."""

from collections.abc import Sequence
from typing import Any, Literal

from attrs import define, field, frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import (
    AcceptanceRule,
    DraftPlanner,
    Iteration,
    Route,
    Services,
    Verdict,
    hookimpl,
    option,
)
from mlxserve_plugins.guarding import guard
from mlxserve_plugins.spec_decode.planner import Planner, Policy
from mlxserve_plugins.spec_decode.rules import RejectionRule, ThresholdRule
from mlxserve_plugins.spec_decode.tally import Tally


@frozen
class SpecDecodeOptions:
    """Speculative decoding; greedy replies are the same with and without it."""

    mode: Literal["none", "ngram", "draft"] = option(
        "none",
        "guess from the text itself (ngram), by a smaller model (draft), or not at all",
        flag="--spec-decode",
        common=True,
        switches={"none": [], "ngram": ["ngram"], "draft": ["draft"]},
    )
    tokens: int = option(
        5, "most draft tokens per step (k)", flag="--num-speculative-tokens", check=ge(1)
    )
    disable_batch_size: int = option(
        8,
        "no drafts when more rows than this decode",
        flag="--spec-decode-disable-batch-size",
        check=ge(0),
    )
    dynamic: bool = option(
        True,
        "draft only while it is measured to pay; without it always k tokens",
        flag="--spec-decode-dynamic",
    )
    adaptive_k: bool = option(
        True,
        "choose each draft's length up to k; without it k or none",
        flag="--adaptive-k",
    )
    acceptance: Literal["rejection", "threshold"] = option(
        "rejection",
        "rejection is lossless: the distribution stays as it is; threshold trades that for speed",
        flag="--spec-decode-acceptance",
    )
    acceptance_threshold: float = option(
        0.3,
        "least probability of a draft that threshold acceptance keeps, above temperature 0",
        flag="--spec-decode-acceptance-threshold",
        check=and_(ge(0.0), le(1.0)),
    )


@define(eq=False)
class SpecDecode:
    """Plans, accepts and counts; which plugin guesses is another matter."""

    options: SpecDecodeOptions
    tally: Tally = field(factory=Tally)
    planner: Planner = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.planner = Planner(policy_of(self.options))

    @hookimpl
    def make_draft_planner(self) -> DraftPlanner:
        """Answer for every proposer."""
        return self.planner

    @hookimpl
    def make_acceptance_rule(self) -> AcceptanceRule:
        """Answer with the rule that the user chose."""
        if self.options.acceptance == "threshold":
            return ThresholdRule(self.options.acceptance_threshold)
        return RejectionRule()

    @hookimpl
    def drafts_verified(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Count."""
        self.tally.verified(verdicts, seconds)

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        """Count, and learn what a step without drafts takes."""
        self.tally.iterated(iteration)
        self.planner.iterated(iteration)

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with ``GET /v1/spec_decode/metrics``, for who has a key."""
        from litestar import get  # noqa: PLC0415 - heavy

        @get("/v1/spec_decode/metrics", guards=[guard(services)], tags=["Metrics"])
        async def spec_decode_metrics() -> dict[str, Any]:
            """Return how many guesses were kept, and what the controller makes of it."""
            return self.tally.figures(self.options.mode, self.planner.state())

        return [spec_decode_metrics]


def policy_of(options: SpecDecodeOptions) -> Policy:
    """Return what the planner needs of the options."""
    return Policy(
        most=options.tokens,
        most_rows=options.disable_batch_size,
        dynamic=options.dynamic,
        adaptive=options.adaptive_k,
    )
