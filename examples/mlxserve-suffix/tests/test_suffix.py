"""The contract of proposers, the index alone, and the same text sooner when it comes again."""

import random
from array import array
from collections.abc import Callable, Sequence

import pytest
from mlxserve_suffix import (
    PLACES,
    Index,
    Suffix,
    SuffixOptions,
    SuffixProposer,
    continuation,
    match_length,
)

from mlxserve.testing import ProposerContract, RunningEngine, ServerProcess
from mlxserve.testing.contracts.speculation import draft_request
from mlxserve_hookspecs import Draft

ALWAYS = ("--no-spec-decode-dynamic", "--no-adaptive-k", "--plugins", "no:ngram,no:prediction")
PROMPTS = ("one token, two tokens", "the other tokens")


class TestSuffix(ProposerContract):
    @pytest.fixture
    def plugin(self) -> Suffix:
        return Suffix(SuffixOptions())


def taught(*replies: Sequence[int], **options: float) -> SuffixProposer:
    proposer = SuffixProposer(SuffixOptions(**options))  # type: ignore[arg-type]
    for reply in replies:
        proposer.learn(reply, 0)
    return proposer


def guess(proposer: SuffixProposer, *tokens: int, room: int = 8) -> tuple[int, ...]:
    return proposer.propose([draft_request(1, tokens, room)]).get(1, Draft()).tokens


def test_what_followed_most_often_is_drafted() -> None:
    proposer = taught([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7, 8], [1, 2, 3, 4, 7, 9])
    assert guess(proposer, 50, 1, 2, 3, 4)[0] == 7


def test_longer_match_outweighs_frequency() -> None:
    proposer = taught([9, 1, 2, 5, 5], [1, 2, 3, 4], [1, 2, 3, 4])
    assert guess(proposer, 50, 9, 1, 2)[0] == 5


def test_draft_is_as_long_as_its_match_times_the_factor() -> None:
    reply = list(range(30))
    assert guess(taught(reply), 50, 4, 5, 6) == (7, 8, 9)
    assert guess(taught(reply, factor=2.0), 50, 4, 5, 6) == (7, 8, 9, 10, 11, 12)
    assert guess(taught(reply, factor=9.0), 50, 4, 5, 6, room=2) == (7, 8)


def test_rare_continuations_are_not_drafted() -> None:
    proposer = taught(*([1, 2, n] for n in range(10, 20)), probability=0.2)
    assert guess(proposer, 50, 1, 2) == ()


def test_shorter_matches_than_allowed_are_none() -> None:
    assert guess(taught([1, 2, 3, 4, 5], shortest=3), 50, 51, 2, 3) == ()


def test_row_itself_is_looked_at() -> None:
    assert guess(taught(), 1, 2, 3, 4, 1, 2) == (3, 4)


def test_prompts_of_finished_replies_are_not_learned() -> None:
    proposer = taught()
    proposer.propose([draft_request(1, [1, 2, 3, 4, 5, 6, 7, 8])])  # six of them are the prompt
    proposer.finished([1])
    assert guess(proposer, 50, 1, 2, 3) == ()
    assert guess(proposer, 50, 4, 5, 6) == (7, 8)


def test_oldest_replies_leave_first_and_leave_nothing() -> None:
    proposer = taught([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 9, 9], kept=8)
    assert guess(proposer, 50, 1, 2) == (9, 9)
    assert guess(proposer, 50, 5, 6) == (7, 8)
    assert proposer.size == 8
    proposer.learn([11, 12, 13, 14], 0)
    proposer.learn([15, 16, 17, 18], 0)
    assert set(proposer.replies._places) == {(11, 12), (12, 13), (15, 16), (16, 17)}
    proposer.learn(range(100), 0)  # more than there is room for
    assert proposer.size == 8


def test_index_stays_bounded_whatever_is_said() -> None:
    dice = random.Random(3)
    proposer = taught(kept=500)
    for _ in range(200):
        proposer.learn([dice.randrange(3) for _ in range(dice.randrange(60))], 0)
        assert proposer.size <= 500
    places = proposer.replies._places.values()
    assert len(places) <= 9
    assert all(0 < len(of_one) <= PLACES for of_one in places)


def test_index_finds_what_a_search_of_all_text_finds() -> None:
    dice = random.Random(5)
    text = array("I", [dice.randrange(4) for _ in range(80)])
    index = Index(2)
    for begun, end in ((0, 30), (30, 31), (31, 80)):
        index.add(text[:end], begun)
    for tail in (array("I", two) for two in ((0, 1), (3, 3), (2, 0))):
        searched = [at for at in range(2, 80) if text[at - 2 : at] == tail]
        assert [at for _, at in index.places(tail)] == searched[::-1]


def test_match_and_continuation() -> None:
    text = array("I", [1, 2, 3, 4, 5])
    for tail, length in (((9, 2, 3), 2), ((1, 2, 3), 3), ((0, 1, 2, 3), 3), ((2, 3, 9), 0)):
        assert match_length(array("I", tail), (text, 3)) == length
    assert continuation([(text, 3), (text, 4)], 4, 0.0) == ((4, 5), 1.0)
    assert continuation([], 4, 0.0) == ((), 0.0)


def test_repeated_requests_are_drafted_from_their_finished_replies(
    engine_of: Callable[..., RunningEngine],
    reference_engine: RunningEngine,
    record_property: Callable[[str, object], None],
) -> None:
    engine = engine_of(Suffix(SuffixOptions()), words=ALWAYS)
    first, again = ([engine.reply(prompt, 48) for prompt in PROMPTS] for _ in range(2))
    plain = [reference_engine.reply(prompt, 48).tokens for prompt in PROMPTS]
    assert [reply.tokens for reply in first] == plain
    assert [reply.tokens for reply in again] == plain
    before, after = (
        sum(reply.finish.usage.accepted_draft_tokens for reply in replies)
        for replies in (first, again)
    )
    record_property("figure", f"accepted draft tokens of 96: {before}, then {after}")
    assert after > before
    assert after > 48
    assert engine.plugin_errors == {}


def test_installed_server_drafts(process_of: Callable[..., ServerProcess]) -> None:
    server = process_of(*ALWAYS[:-1], f"suffix,{ALWAYS[-1]}")
    body = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 32, "temperature": 0}
    first, again = (server.post("/v1/completions", **body).json() for _ in range(2))
    assert first["choices"][0]["text"] == again["choices"][0]["text"]
    details = again["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 0
