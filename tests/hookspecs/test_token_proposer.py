"""A proposer of two methods, as a plugin's author writes one."""

from collections.abc import Sequence

from mlxserve.fitting import lacks
from mlxserve_hookspecs import Draft, DraftRequest, Proposer, SamplingParams, TokenProposer


class Doubling(TokenProposer[list[int]]):
    """Says each row's last token again; odd rows are none of its business."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []

    def begin(self, row: DraftRequest) -> list[int] | None:
        self.begun.append(row.uid)
        return [] if row.uid % 2 == 0 else None

    def guess(self, kept: list[int], row: DraftRequest) -> Sequence[int]:
        kept.append(len(row.tokens))
        return [row.tokens[-1]] * row.room if row.tokens[-1] else []


def row(uid: int, *tokens: int, room: int = 2) -> DraftRequest:
    sampling = SamplingParams()
    return DraftRequest(uid=uid, tokens=tokens, prompt_tokens=1, room=room, sampling=sampling)


def test_it_is_a_proposer_that_wants_the_rows_it_keeps_something_for() -> None:
    proposer = Doubling()
    assert lacks(proposer, Proposer) == ""
    batch = [row(0, 5), row(1, 6), row(2, 0)]
    assert proposer.wants(batch) == [0, 2]
    assert proposer.propose(batch) == {0: Draft((5, 5))}
    assert proposer.begun == [0, 1, 2]


def test_a_row_is_begun_once_until_it_is_finished() -> None:
    proposer = Doubling()
    for tokens in ((5,), (5, 5)):
        proposer.wants([row(0, *tokens)])
        proposer.propose([row(0, *tokens)])
    assert proposer.begun == [0]
    proposer.finished([0, 7])
    assert proposer.propose([row(0, 9)]) == {0: Draft((9, 9))}
    assert proposer.begun == [0, 0]
