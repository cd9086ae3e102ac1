from collections.abc import Sequence

import pytest

from mlxserve_hookspecs import DraftRequest, SamplingParams
from mlxserve_plugins.prediction import NEAR, PredictionProposer, Trail

KNOWN = tuple(range(100, 200))


def row(reply: Sequence[int], prediction: tuple[int, ...] = KNOWN, uid: int = 1) -> DraftRequest:
    return DraftRequest(
        uid=uid,
        tokens=[1, 2, 3, *reply],
        prompt_tokens=3,
        room=4,
        sampling=SamplingParams(),
        prediction=prediction,
    )


def drafted(reply: Sequence[int], *, step: int = 1) -> int:
    """Return how many of the reply's tokens a perfect verifier would take from drafts."""
    proposer, at, accepted = PredictionProposer(vocab := 1000), 0, 0
    assert vocab > max(reply)
    while at < len(reply):
        draft = proposer.propose([row(reply[:at])]).get(1)
        guesses = draft.tokens if draft else ()
        kept = 0
        while kept < len(guesses) and reply[at + kept : at + kept + 1] == [guesses[kept]]:
            kept += 1
        accepted, at = accepted + kept, at + kept + step
    return accepted


def test_a_reply_begins_as_predicted() -> None:
    assert PredictionProposer(1000).propose([row([])])[1].tokens == KNOWN[:4]


def test_a_reply_that_is_the_prediction_takes_four_of_five_tokens_from_it() -> None:
    assert drafted(list(KNOWN)) == 80


EDITS = {
    "a token replaced": [*KNOWN[:30], 7, *KNOWN[31:]],
    "many replaced": [*KNOWN[:30], 7, 8, 9, 7, 8, *KNOWN[35:]],
    "inserted": [*KNOWN[:30], 7, 8, 9, 10, 11, *KNOWN[30:]],
    "deleted": [*KNOWN[:30], *KNOWN[40:]],
    "much deleted": [*KNOWN[:20], *KNOWN[20 + NEAR + 20 :]],
    "moved": [*KNOWN[50:], *KNOWN[:50]],
    "begins with a preface": [7, 8, 9, *KNOWN],
    "repeated": [*KNOWN, *KNOWN],
}


@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_the_prediction_is_found_again(edit: str) -> None:
    reply = EDITS[edit]
    same = sum(token in KNOWN for token in reply)
    assert drafted(reply) >= 0.8 * same - 10


def test_a_reply_that_has_nothing_of_the_prediction_gets_no_drafts_after_the_first() -> None:
    proposer = PredictionProposer(1000)
    assert proposer.propose([row([])])
    assert not proposer.propose([row([7])])
    assert not proposer.propose([row([7, 8, 9, 10])])


def test_past_its_end_nothing_is_predicted() -> None:
    proposer = PredictionProposer(1000)
    assert proposer.propose([row(KNOWN[:98])])[1].tokens == KNOWN[98:]
    assert not proposer.propose([row(KNOWN)])
    assert not proposer.propose([row([*KNOWN, 7])])


def test_only_rows_with_a_prediction_are_wanted_and_answered() -> None:
    proposer = PredictionProposer(1000)
    batch = [row([], (), uid=1), row([], uid=2)]
    assert list(proposer.wants(batch)) == [2]
    assert list(proposer.propose(batch)) == [2]


def test_finished_sequences_are_forgotten() -> None:
    proposer = PredictionProposer(1000)
    proposer.propose([row([], uid=uid) for uid in range(3)])
    proposer.finished([0, 2, 7])
    assert list(proposer._kept) == [1]


def test_following_a_prediction_costs_a_step_a_token_and_a_search_is_bounded() -> None:
    long = tuple(range(20_000))
    trail = Trail(long, 3)
    trail.follow([1, 2, 3, *long[:10_000]])
    assert trail.operations == 10_000
    trail.follow([1, 2, 3, *long[:10_000], 50_000])
    built = trail.operations
    assert built <= 10_000 + len(long) + NEAR + 2
    trail.follow([1, 2, 3, *long[:10_000], 50_000, 50_001, 50_002])
    assert trail.operations - built <= 2 * (NEAR + 2)
