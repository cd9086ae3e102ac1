"""The contracts of what guesses ahead: proposers, planners of drafts, acceptance rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve
from pluggy import PluginManager

from mlxserve.testing.contracts.base import PROMPT, Contract, added, answer
from mlxserve.testing.engines import RunningEngine
from mlxserve.testing.texts import WIDTH, Bytes
from mlxserve_hookspecs import (
    AcceptanceRule,
    Array,
    DraftPlanner,
    DraftRequest,
    DraftRoom,
    HiddenStates,
    ModelError,
    Proposer,
    SamplingParams,
    Verdict,
    Verification,
    hookimpl,
)
from mlxserve_hookspecs.speculation import (
    make_acceptance_rule,
    make_draft_planner,
    make_proposer,
)

CHORUS = tuple((b"one two three. " * 4)[:50])


class Always:
    """A plugin whose planner drafts whether it pays or not; implements ``DraftPlanner`` too."""

    @hookimpl
    def make_draft_planner(self) -> DraftPlanner:
        """Return itself."""
        return self

    def plan(self, rows: Sequence[DraftRoom]) -> Mapping[int, int]:
        """Return all that each row has room for, up to four."""
        return {row.uid: min(row.most, 4) for row in rows}

    def learn(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Learn nothing."""

    def finished(self, uids: Sequence[int]) -> None:
        """Keep nothing."""


class NoHost:
    """Implements ``ModelHost`` where there is no second model, and the first lends nothing."""

    text = Bytes()

    def embed(self, tokens: Array) -> Array:
        """Refuse."""
        del tokens
        raise ModelError("no model is served in this test: there are no embeddings")

    def logits(self, states: Array) -> Array:
        """Refuse."""
        del states
        raise ModelError("no model is served in this test: there is no head")

    def load(self, reference: str) -> Any:
        """Refuse."""
        raise ModelError(f"{reference} is not served in this test: there is one model only")


def draft_request(uid: int, tokens: Sequence[int], room: int = 4, **changes: Any) -> DraftRequest:
    """Return a greedy row of which all tokens but the last two are the prompt."""
    fields: dict[str, Any] = {
        "uid": uid,
        "tokens": tuple(tokens),
        "prompt_tokens": len(tokens) - 2,
        "room": room,
        "sampling": SamplingParams(temperature=0.0),
    }
    return DraftRequest(**(fields | changes))


class ProposerContract(Contract):
    """Of ``make_proposer``: guesses that the engine can verify, for rows that it asked about."""

    hooks = (make_proposer,)

    @pytest.fixture
    def host(self) -> Any:
        """Return what loads second models."""
        return NoHost()

    @pytest.fixture
    def proposer(self, manager: PluginManager, host: Any) -> Proposer:
        """Return the proposer."""
        return added(manager, make_proposer, vocab_size=WIDTH, host=host)

    @pytest.fixture
    def batch(self) -> list[DraftRequest]:
        """Return rows of which the proposer has a guess for one at least."""
        return [
            draft_request(3, CHORUS),
            draft_request(5, CHORUS, room=1),
            draft_request(7, range(20)),
            draft_request(11, CHORUS, room=6, prediction=CHORUS[-2:] + CHORUS),
            draft_request(13, CHORUS, sampling=SamplingParams(temperature=1.0)),
        ]

    def test_it_guesses(self, proposer: Proposer, batch: list[DraftRequest]) -> None:
        """There is a draft for a row of ``batch``: without, no other clause says anything."""
        assert proposer.wants(batch)
        assert any(draft.tokens for draft in proposer.propose(batch).values())

    def test_wants_rows_of_the_batch(self, proposer: Proposer, batch: list[DraftRequest]) -> None:
        """``wants`` returns uids of the batch and no others."""
        for some in (batch, batch[:1], []):
            assert set(proposer.wants(some)) <= {row.uid for row in some}

    def test_drafts_are_for_rows_of_the_batch(
        self, proposer: Proposer, batch: list[DraftRequest]
    ) -> None:
        """``propose`` drafts for uids of the batch and no others, though it saw others before."""
        for some in (batch, batch[:2], batch[3:], []):
            assert set(proposer.propose(some)) <= {row.uid for row in some}

    def test_drafts_fit_their_room(self, proposer: Proposer, batch: list[DraftRequest]) -> None:
        """A draft is no longer than the row's ``room``; with none there is none."""
        for room in (6, 2, 1, 0):
            rows = [evolve(row, room=room) for row in batch]
            assert all(len(draft.tokens) <= room for draft in proposer.propose(rows).values())

    def test_drafts_are_of_the_vocabulary(
        self, proposer: Proposer, batch: list[DraftRequest]
    ) -> None:
        """A draft's tokens are whole numbers from 0 to below ``vocab_size``."""
        tokens = [t for draft in proposer.propose(batch).values() for t in draft.tokens]
        assert all(isinstance(token, int) and 0 <= token < WIDTH for token in tokens)

    def test_probabilities_are_distributions(
        self, proposer: Proposer, batch: list[DraftRequest]
    ) -> None:
        """A draft's probabilities are ``[len(tokens), vocab]``, each row a distribution."""
        for draft in proposer.propose(batch).values():
            if draft.probabilities is not None:
                assert tuple(draft.probabilities.shape) == (len(draft.tokens), WIDTH)
                assert (draft.probabilities >= 0).all()
                assert abs(draft.probabilities.sum(-1) - 1).max() < 1e-3

    def test_hidden_states_are_layers_and_tokens(self, proposer: Proposer) -> None:
        """``hidden_states``, if there is any, says which layers' and of how many tokens."""
        asks: Any = getattr(proposer, "hidden_states", lambda: None)
        wish = asks()
        if wish is not None:
            assert isinstance(wish, HiddenStates)
            assert all(isinstance(layer, int) and layer >= -1 for layer in wish.layers)
            assert wish.most >= 1

    def test_tokens_are_left_alone(self, proposer: Proposer) -> None:
        """A row's tokens are not changed: they are the engine's own."""
        tokens = list(CHORUS)
        row = evolve(draft_request(3, CHORUS), tokens=tokens)
        proposer.wants([row])
        proposer.propose([row])
        assert tokens == list(CHORUS)

    def test_rows_grow(self, proposer: Proposer) -> None:
        """A row is followed while it grows, by one token or by several at once."""
        for length in (20, 21, 22, 26, 27, 40, 50):
            row = draft_request(3, CHORUS[:length], prompt_tokens=18)
            proposer.wants([row])
            assert set(proposer.propose([row])) <= {3}

    def test_finished_rows_are_forgotten(
        self, manager: PluginManager, proposer: Proposer, host: Any, batch: list[DraftRequest]
    ) -> None:
        """After ``finished`` a row of the same uid is a new one; unknown uids are no mistake."""
        proposer.propose([evolve(batch[0], tokens=(*range(60), *CHORUS), prompt_tokens=100)])
        proposer.finished([batch[0].uid, 999])
        fresh = added(manager, make_proposer, vocab_size=WIDTH, host=host)
        assert proposer.propose(batch) == fresh.propose(batch)

    def test_engine_replies_the_same(
        self, plugin: object, engine_of: Callable[..., RunningEngine],
        reference_engine: RunningEngine,
    ) -> None:  # fmt: skip
        """Greedy replies are the same with the proposer as without."""
        plain, guessing = reference_engine, engine_of(plugin, Always())
        for prompt in (PROMPT, "one two three"):
            assert guessing.reply(prompt, 24).tokens == plain.reply(prompt, 24).tokens
        assert guessing.plugin_errors == {}


class DraftPlannerContract(Contract):
    """Of ``make_draft_planner``: draft lengths within what each row can use."""

    hooks = (make_draft_planner,)

    @pytest.fixture
    def planner(self, manager: PluginManager) -> DraftPlanner:
        """Return the planner."""
        return answer(manager, make_draft_planner)

    def test_lengths_fit(self, planner: DraftPlanner) -> None:
        """``plan`` returns whole numbers from 0 to ``most``, for rows that it was asked about."""
        for turn in range(30):
            rows = [
                DraftRoom(uid=uid, most=most) for uid, most in ((2, 0), (4, 1), (8, 5), (turn, 16))
            ]
            most = {row.uid: row.most for row in rows}
            plan = planner.plan(rows)
            assert set(plan) <= set(most)
            assert all(isinstance(n, int) and 0 <= n <= most[uid] for uid, n in plan.items())
            verdicts = [Verdict(uid=u, drafted=n, accepted=n // 2) for u, n in plan.items()]
            planner.learn(verdicts, 0.01)

    def test_nobody_is_planned_nothing(self, planner: DraftPlanner) -> None:
        """``plan`` of no rows is empty."""
        assert dict(planner.plan([])) == {}

    def test_it_learns_from_any_pass(self, planner: DraftPlanner) -> None:
        """``learn`` takes rows without a draft, rows never planned, and passes of no time."""
        planner.learn([Verdict(uid=1, drafted=0, accepted=0)], 0.01)
        planner.learn([Verdict(uid=77, drafted=4, accepted=4)], 0.0)
        planner.learn([], 0.01)

    def test_finished_rows_are_forgotten(self, planner: DraftPlanner) -> None:
        """``finished`` takes rows that it knows and rows that it does not."""
        planner.plan([DraftRoom(uid=2, most=5)])
        planner.finished([2, 999])
        assert set(planner.plan([DraftRoom(uid=4, most=5)])) <= {4}


class AcceptanceRuleContract(Contract):
    """Of ``make_acceptance_rule``: counts and weights, and whether the rule is what it says."""

    hooks = (make_acceptance_rule,)

    @pytest.fixture
    def rule(self, manager: PluginManager) -> AcceptanceRule:
        """Return the rule."""
        return answer(manager, make_acceptance_rule)

    def test_lossless_is_yes_or_no(self, rule: AcceptanceRule) -> None:
        """``lossless`` is a bool."""
        assert isinstance(rule.lossless, bool)

    @pytest.mark.parametrize("sampled", [False, True], ids=["deterministic", "sampled"])
    def test_counts_and_weights_fit(self, rule: AcceptanceRule, sampled: bool) -> None:
        """Counts are ``[rows]`` within each draft's length; weights ``[rows, vocab]``, usable."""
        import mlx.core as mx

        seen = verification(rows=64, k=3, vocab=8, sampled=sampled)
        counts, weights = rule.accept(seen)
        assert counts.shape == (64,)
        assert weights.shape == (64, 8)
        assert mx.all((counts >= 0) & (counts <= seen.lengths))
        assert mx.all(mx.isfinite(weights) & (weights >= 0))
        assert mx.all(weights.sum(-1) > 0)

    def test_certain_drafts_stay(self, rule: AcceptanceRule) -> None:
        """A draft to which the target gives all probability stays."""
        import mlx.core as mx

        seen = evolve(
            verification(rows=8, k=2, vocab=4, sampled=False), lengths=mx.full((8,), 2, mx.int32)
        )
        sure = (seen.drafts[..., None] == mx.arange(4)).astype(mx.float32)
        following = seen.probabilities[:, 2:]
        seen = evolve(seen, probabilities=mx.concatenate([sure, following], axis=1))
        counts, _ = rule.accept(seen)
        assert counts.tolist() == seen.lengths.tolist()

    def test_impossible_drafts_go(self, rule: AcceptanceRule) -> None:
        """A draft to which the target gives no probability does not stay, nor does what follows."""
        import mlx.core as mx

        seen = evolve(
            verification(rows=8, k=2, vocab=4, sampled=False), lengths=mx.full((8,), 2, mx.int32)
        )
        never = (seen.drafts[..., None] != mx.arange(4)).astype(mx.float32) / 3
        following = seen.probabilities[:, 2:]
        seen = evolve(seen, probabilities=mx.concatenate([never, following], axis=1))
        counts, _ = rule.accept(seen)
        assert counts.tolist() == [0] * 8

    @pytest.mark.parametrize("sampled", [False, True], ids=["deterministic", "sampled"])
    def test_a_lossless_rule_is(self, rule: AcceptanceRule, sampled: bool) -> None:
        """Under a lossless rule the first token is distributed as the target says."""
        import mlx.core as mx

        if not rule.lossless:
            pytest.skip("the rule says that it is not lossless")
        rows, vocab = 20_000, 4
        target = mx.array([0.1, 0.2, 0.3, 0.4])
        proposed = mx.array([0.4, 0.3, 0.2, 0.1])
        drafts = (
            mx.random.categorical(mx.log(proposed), shape=(rows, 1), key=mx.random.key(4))
            if sampled
            else mx.full((rows, 1), 1)
        )
        spread = mx.broadcast_to(proposed, (rows, 1, vocab)) if sampled else None
        seen = Verification(
            probabilities=mx.broadcast_to(target, (rows, 2, vocab)),
            drafts=drafts.astype(mx.int32),
            lengths=mx.ones((rows,), mx.int32),
            draft_probabilities=spread,
            uniforms=mx.random.uniform(shape=(rows, 2), key=mx.random.key(5)),
        )
        counts, weights = rule.accept(seen)
        drawn = mx.random.categorical(mx.log(weights), key=mx.random.key(6))
        first = mx.where(counts > 0, seen.drafts[:, 0], drawn)
        shares = (first[:, None] == mx.arange(vocab)).mean(axis=0)
        assert mx.abs(shares - target).max() < 0.02  # five standard deviations


def verification(*, rows: int, k: int, vocab: int, sampled: bool) -> Verification:
    """Return what a pass over drafts of lengths 0 to k might have found."""
    import mlx.core as mx

    def spread(seed: int, positions: int) -> Array:
        logits = mx.random.normal((rows, positions, vocab), key=mx.random.key(seed))
        return mx.softmax(2.0 * logits, axis=-1)

    return Verification(
        probabilities=spread(1, k + 1),
        drafts=mx.random.randint(0, vocab, (rows, k), key=mx.random.key(2)).astype(mx.int32),
        lengths=mx.arange(rows) % (k + 1),
        draft_probabilities=spread(3, k) if sampled else None,
        uniforms=mx.random.uniform(shape=(rows, k + 1), key=mx.random.key(4)),
    )
