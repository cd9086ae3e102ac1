"""Proposers that do what a test says, and a planner that always asks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import (
    AcceptanceRule,
    Draft,
    DraftPlanner,
    DraftRequest,
    Proposer,
    Verdict,
    hookimpl,
)
from mlxserve_plugins.spec_decode import SpecDecode, SpecDecodeOptions

Guess = Callable[[DraftRequest], Any]


def always(tokens: int = 5, **options: Any) -> SpecDecode:
    """Return the plugin, told to draft whether it pays or not."""
    return SpecDecode(
        SpecDecodeOptions(tokens=tokens, dynamic=False, disable_batch_size=64, **options)
    )


@define(eq=False)
class Scripted:
    """A plugin whose proposer guesses as told; ``None`` is no guess.

    Attributes:
        guess: Makes a row's draft.
        asked: How often the proposer was asked.
        gone: The sequences that it was told to forget.
    """

    guess: Guess
    asked: int = 0
    gone: list[int] = field(factory=list)

    @hookimpl
    def make_proposer(self, vocab_size: int) -> Proposer:
        return self

    def wants(self, batch: Sequence[DraftRequest]) -> Collection[int]:
        return [row.uid for row in batch]

    def propose(self, batch: Sequence[DraftRequest]) -> Mapping[int, Draft]:
        self.asked += 1
        guesses = {row.uid: self.guess(row) for row in batch}
        return {uid: draft for uid, draft in guesses.items() if draft is not None}

    def finished(self, uids: Sequence[int]) -> None:
        self.gone += uids


@define(eq=False)
class Rule:
    """A plugin with an acceptance rule."""

    rule: AcceptanceRule

    @hookimpl
    def make_acceptance_rule(self) -> AcceptanceRule:
        return self.rule


@define(eq=False)
class Turns:
    """A plugin whose planner drafts by a script of lengths, and notes the verdicts."""

    lengths: Callable[[int], int]
    plans: int = 0
    verdicts: list[Verdict] = field(factory=list)

    @hookimpl
    def make_draft_planner(self) -> DraftPlanner:
        return self

    def plan(self, rows: Sequence[Any]) -> Mapping[int, int]:
        self.plans += 1
        return {row.uid: min(self.lengths(self.plans), row.most) for row in rows}

    def learn(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        self.verdicts += verdicts

    def finished(self, uids: Sequence[int]) -> None:
        """Keep nothing."""


def oracle(replies: Mapping[tuple[int, ...], Sequence[int]], wrong: int = 0) -> Guess:
    """Return a guess that knows the replies by prompt; with ``wrong``, every so many-th is off."""

    def guess(row: DraftRequest) -> Draft | None:
        prompt = tuple(row.tokens[: row.prompt_tokens])
        done = len(row.tokens) - row.prompt_tokens
        known = list(replies.get(prompt, ())[done : done + row.room])
        if wrong:
            known = [t ^ 1 if (done + at) % wrong == 1 else t for at, t in enumerate(known)]
        return Draft(tuple(known)) if known else None

    return guess
