"""Speculation in the batch: plan, propose, verify all rows in one pass, accept row by row."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import mlx.core as mx
from attrs import define, frozen

from mlxserve.batch.decoder import EMPTY, Read
from mlxserve.batch.hidden import NOTHING, Sights
from mlxserve.batch.sequence import Sequence
from mlxserve.batch.store import RowStore, States
from mlxserve.pool.table import Row
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve.sampling.batch import SampledRow, SamplerBatch
from mlxserve.sampling.draw import draw, row_keys, uniforms
from mlxserve.sampling.logprobs import PendingLogprobs, pending_logprobs
from mlxserve_hookspecs import (
    AcceptanceRule,
    Draft,
    DraftPlanner,
    DraftRequest,
    DraftRoom,
    Proposer,
    Verdict,
    Verification,
)

ACCEPTING = 1 << 30
"""Added to a position for the numbers that accept or refuse drafts: never those that draw."""


@frozen(eq=False)
class Verifying:
    """A verification pass on its way.

    Attributes:
        sequences: Whose row is in each slot.
        rows: The slots' rows; they grow when the pass is read.
        drafted: Draft tokens of each slot.
        tokens: ``[rows, width]``: drafts as far as accepted, then the token after them.
        accepted: ``[rows]``: how many drafts stay.
        logprobs: For the rows that ask, at row times width plus position.
        began: Monotonic seconds before the proposers were asked.
        sights: Whoever sees the hidden states that the pass made.
        hidden: Those.
    """

    sequences: tuple[Sequence | None, ...]
    rows: tuple[Row | None, ...]
    drafted: tuple[int, ...]
    tokens: mx.array
    accepted: mx.array
    logprobs: PendingLogprobs | None
    began: float
    sights: Sights = NOTHING
    hidden: States = ()

    def read(self) -> list[Read]:
        """Wait for the pass, lengthen its rows and return their tokens."""
        tokens: Any = self.tokens.tolist()
        accepted: Any = self.accepted.tolist()
        found = {} if self.logprobs is None else self.logprobs.read()
        width = self.tokens.shape[1]
        for sight in self.sights.values():
            starts = [row.length if row else 0 for row in self.rows]
            pairs = zip(self.sequences, self.rows, strict=True)
            still = [s if s and s.row is row else None for s, row in pairs]
            sight.ran(still, starts, [n + 1 for n in accepted], self.hidden)
        reads = []
        for slot, sequence in enumerate(self.sequences):
            row, count = self.rows[slot], accepted[slot] + 1
            if sequence is None or row is None:
                continue
            if sequence.row is row:
                row.length += count
            logprobs = [found.get(slot * width + at) for at in range(count)]
            reads.append(Read(sequence, tokens[slot][:count], logprobs, self.drafted[slot]))
        return reads

    def verdicts(self) -> list[Verdict]:
        """Return what became of each row's draft; after ``read``."""
        accepted: Any = self.accepted.tolist()
        return [
            Verdict(uid=s.uid, drafted=self.drafted[at], accepted=accepted[at])
            for at, s in enumerate(self.sequences)
            if s is not None
        ]


@define(eq=False)
class Speculator:
    """Asks the proposers and verifies. Without any, or without a planner, it never drafts.

    Attributes:
        store: The rows.
        vocab: Width of the logits.
        proposers: Guess; the first that has a draft for a row is heard.
        planner: Says how far each row may be guessed ahead.
        rule: Accepts where rows sample; ``None`` is by match.
    """

    store: RowStore
    vocab: int
    proposers: Items[Proposer] = ()
    planner: DraftPlanner | None = None
    rule: AcceptanceRule | None = None
    agreement: Agreement = ALONE
    sights: Sights = NOTHING

    def plan(self, decoding: Items[Sequence]) -> Mapping[int, int]:
        """Return draft lengths by uid; empty when nobody is to draft now."""
        if not self.proposers or self.planner is None or not self.store.drafts_fit:
            return {}
        asked = [_request(s, s.to_launch - 1) for s in decoding if s.to_launch > 1]
        wanted = self._interest(asked)
        if not wanted:
            return {}
        rooms = [
            DraftRoom(uid=s.uid, most=s.to_launch - 1 if s.uid in wanted else 0) for s in decoding
        ]
        planned = self.planner.plan(rooms)
        lengths = [planned.get(s.uid, 0) if s.uid in wanted else 0 for s in decoding]
        # Each rank measures for itself; they draft what all of them find worth while.
        agreed = self.agreement.least(lengths)
        return {s.uid: k for s, k in zip(decoding, agreed, strict=True) if k > 0}

    def propose(self, decoding: Items[Sequence], planned: Mapping[int, int]) -> dict[int, Draft]:
        """Return the drafts: for each row that of the first proposer that has one."""
        asked = [s for s in decoding if planned.get(s.uid) and s.to_launch > 1]
        left = {s.uid: _request(s, min(planned[s.uid], s.to_launch - 1)) for s in asked}
        drafts: dict[int, Draft] = {}
        for at, proposer in enumerate(self.proposers):
            if not left:
                break
            rows = list(left.values())
            if (sight := self.sights.get(at)) is not None:
                rows = sight.shown(rows)
            for uid, draft in proposer.propose(rows).items():
                if draft.tokens:
                    drafts[uid] = draft
                    del left[uid]
        return self._agreed([s.uid for s in asked], drafts, max(planned.values()))

    def _agreed(self, uids: Items[int], drafts: dict[int, Draft], width: int) -> dict[int, Draft]:
        """Return the drafts as far as every rank has them."""
        if self.agreement.alone:
            return drafts
        mine = [drafts.get(uid, Draft()) for uid in uids]
        agreed = self.agreement.common([draft.tokens for draft in mine], width)
        return {
            uid: _cut(draft, len(tokens))
            for uid, draft, tokens in zip(uids, mine, agreed, strict=True)
            if tokens
        }

    def _interest(self, asked: Items[DraftRequest]) -> set[int]:
        return {uid for proposer in self.proposers for uid in proposer.wants(asked)}

    def width(self, drafts: Mapping[int, Draft]) -> int:
        """Return how many tokens a row a pass over ``drafts`` has."""
        longest = max((len(draft.tokens) for draft in drafts.values()), default=0)
        return 1 if not longest else self.store.width(1 + longest)

    def launch(
        self, decoding: Items[Sequence], drafts: Mapping[int, Draft], began: float, width: int
    ) -> Verifying:
        """Start a pass over every decoding row, each with its own draft or none."""
        order = self.store.order()
        by_row = {id(s.row): s for s in decoding}
        slots = [None if row is None else by_row.get(id(row)) for row in order]
        mine = [drafts.get(s.uid, Draft()) if s else Draft() for s in slots]
        guesses = _padded([draft.tokens for draft in mine], width - 1)
        last = mx.array([[s.tokens[-1] if s else 0] for s in slots], mx.int32)
        tokens = mx.concatenate([last, guesses], axis=1)
        logits, hidden = self.store.verify(tokens), self.store.hidden
        flat = logits.reshape(-1, logits.shape[-1])
        starts = mx.array([row.length if row else 0 for row in order], mx.int32)
        positions = starts[:, None] + 1 + mx.arange(width)[None]
        accepted, following = self._accept(flat, positions, guesses, slots, mine)
        emitted = mx.where(mx.arange(width)[None] < accepted[:, None], _widened(guesses), following)
        logprobs = pending_logprobs(flat, emitted.reshape(-1), _wanted(slots, width))
        more = self.store.commit(tokens, accepted + 1)
        results = (emitted, accepted, *(logprobs.arrays() if logprobs else ()), *more)
        mx.async_eval(*results)  # type: ignore[no-untyped-call]
        for sequence in decoding:
            sequence.launched += 1
        drafted = tuple(len(draft.tokens) for draft in mine)
        return Verifying(
            sequences=tuple(slots),
            rows=tuple(order),
            drafted=drafted,
            tokens=emitted,
            accepted=accepted,
            logprobs=logprobs,
            began=began,
            sights=self.sights,
            hidden=hidden,
        )

    def learn(self, verdicts: Items[Verdict], seconds: float) -> None:
        """Tell the planner how a pass went."""
        if self.planner is not None:
            self.planner.learn(verdicts, seconds)

    def forget(self, uids: Items[int]) -> None:
        """Let proposer and planner drop what they know of finished sequences."""
        for who in (*self.proposers, self.planner):
            if who is not None:
                who.finished(uids)
        for sight in self.sights.values():
            sight.forget(uids)

    def fork(self, lead: Sequence, twins: Items[Sequence]) -> None:
        """Let sequences that go on from where another is be guessed for alike."""
        for sight in self.sights.values():
            for twin in twins:
                sight.fork(lead.uid, twin.uid)

    def _accept(
        self,
        flat: mx.array,
        positions: mx.array,
        guesses: mx.array,
        slots: Items[Sequence | None],
        drafts: Items[Draft],
    ) -> tuple[mx.array, mx.array]:
        """Return accepted drafts ``[rows]`` and the tokens after them ``[rows, 1]``.

        By match, but for rows that sample and whose drafts a match cannot settle.
        """
        rows, width = positions.shape
        lengths = mx.array([len(draft.tokens) for draft in drafts], mx.int32)
        batch = SamplerBatch(_sampled_rows(slots, drafts, width), self.vocab)
        ruled = [] if self.rule is None else _ruled(self.rule, slots, drafts)
        # Before anything is drawn: drawing counts the tokens for penalties.
        scaled = batch.scale(batch.process(flat)) if any(ruled) else flat
        drawn = batch.sample(flat, positions.reshape(-1)).reshape(rows, width)
        accepted = _leading(drawn[:, :-1] == guesses, lengths)
        following = mx.take_along_axis(drawn, accepted[:, None], axis=1)
        if self.rule is None or not any(ruled):
            return accepted, following
        bases = batch.keys.reshape(rows, width)[:, 0]
        verification = Verification(
            probabilities=mx.softmax(scaled, axis=-1).reshape(rows, width, -1),
            drafts=guesses,
            lengths=lengths,
            draft_probabilities=_stacked(drafts, width - 1, self.vocab),
            uniforms=uniforms(row_keys(bases, positions[:, 0] + ACCEPTING), width),
        )
        counts, weights = self.rule.accept(verification)
        counts = counts.astype(mx.int32)
        at = mx.take_along_axis(positions, counts[:, None], axis=1)[:, 0]
        token = draw(mx.log(weights.astype(mx.float32)), row_keys(bases, at))
        by_rule = mx.array(ruled)
        return (
            mx.where(by_rule, counts, accepted),
            mx.where(by_rule[:, None], token[:, None], following),
        )


def constrain(sequence: Sequence, draft: Draft) -> Draft:
    """Put the constraint's mask at each position into ``sequence``; cut the draft to fit them.

    The constraint is led through the draft and back again.
    """
    constraint = sequence.constraint
    assert constraint is not None
    masks: list[Any] = [constraint.mask()]
    kept: list[int] = []
    for token in draft.tokens:
        if masks[-1] is not None and not masks[-1][token].item():
            break
        constraint.advance((token,))
        kept.append(token)
        if constraint.finished:
            break
        masks.append(constraint.mask())
    constraint.rollback(len(kept))
    mx.eval([mask for mask in masks if mask is not None])  # one that fails is its own row's
    sequence.masks = masks
    return _cut(draft, len(kept))


def _cut(draft: Draft, length: int) -> Draft:
    held = draft.probabilities
    return Draft(draft.tokens[:length], None if held is None or not length else held[:length])


def _request(sequence: Sequence, room: int) -> DraftRequest:
    return DraftRequest(
        uid=sequence.uid,
        tokens=sequence.tokens,
        prompt_tokens=sequence.prompt_tokens,
        room=room,
        sampling=sequence.request.sampling,
        prediction=sequence.request.prediction,
    )


def _sampled_rows(
    slots: Items[Sequence | None], drafts: Items[Draft], width: int
) -> list[SampledRow]:
    rows: list[SampledRow] = []
    for sequence, draft in zip(slots, drafts, strict=True):
        if sequence is None:
            rows += [EMPTY] * width
            continue
        mine = [sequence.sampled_row(draft.tokens[:at]) for at in range(len(draft.tokens) + 1)]
        rows += mine + [EMPTY] * (width - len(mine))
    return rows


def _padded(drafts: Items[tuple[int, ...]], width: int) -> mx.array:
    return mx.array([[*d, *[0] * (width - len(d))] for d in drafts], mx.int32).reshape(-1, width)


def _widened(guesses: mx.array) -> mx.array:
    return mx.pad(guesses, [(0, 0), (0, 1)])


def _leading(matches: mx.array, lengths: mx.array) -> mx.array:
    """Return how many matches each row ``[rows, k]`` starts with, within its length."""
    inside = mx.arange(matches.shape[1])[None] < lengths[:, None]
    run = mx.cumprod((matches & inside).astype(mx.int32), axis=1)
    return run.sum(axis=1).astype(mx.int32)


def _ruled(rule: AcceptanceRule, slots: Items[Sequence | None], drafts: Items[Draft]) -> list[bool]:
    """Return which rows the rule decides: their neighbours' drafts change nothing for the rest."""
    return [
        s is not None
        and not s.request.sampling.greedy
        and bool(draft.tokens)
        and (draft.probabilities is not None or not rule.lossless)
        for s, draft in zip(slots, drafts, strict=True)
    ]


def _stacked(drafts: Items[Draft], width: int, vocab: int) -> mx.array | None:
    if all(draft.probabilities is None for draft in drafts):
        return None
    rows = []
    for draft in drafts:
        # A deterministic draft is one that was certain of its tokens.
        held = draft.probabilities
        if held is None:
            held = mx.array(draft.tokens, mx.int32)[:, None] == mx.arange(vocab)[None]
        rows.append(mx.pad(held.astype(mx.float32), [(0, width - len(draft.tokens)), (0, 0)]))
    return mx.stack(rows)


def _wanted(slots: Items[Sequence | None], width: int) -> list[tuple[int, int]]:
    asked = [(slot, s.request.logprobs) for slot, s in enumerate(slots) if s]
    return [
        (slot * width + at, count)
        for slot, count in asked
        if count is not None
        for at in range(width)
    ]
