import random
from collections.abc import Sequence

import pytest

from mlxserve_hookspecs import DraftRequest, SamplingParams, SettingError
from mlxserve_plugins.ngram import CATCH_UP, NgramIndex, NgramOptions, NgramProposer

VOCAB = 1000


def row(tokens: Sequence[int], prompt: int = 0, room: int = 5, uid: int = 1) -> DraftRequest:
    return DraftRequest(
        uid=uid, tokens=tokens, prompt_tokens=prompt, room=room, sampling=SamplingParams()
    )


def guess(tokens: Sequence[int], prompt: int = 0, room: int = 5, **options: int) -> list[int]:
    proposer = NgramProposer(NgramOptions(**options), VOCAB)  # type: ignore[arg-type]
    draft = proposer.propose([row(tokens, prompt, room)]).get(1)
    return list(draft.tokens) if draft else []


def scanned(tokens: Sequence[int], longest: int, shortest: int, first: int, room: int) -> list[int]:
    """Return what a scan of the whole sequence finds: the definition."""
    for size in range(longest, shortest - 1, -1):
        tail = list(tokens[-size:])
        for end in range(len(tokens) - 1, first + size - 1, -1):
            if len(tokens) - first >= size and list(tokens[end - size : end]) == tail:
                period = len(tokens) - end
                return [tokens[end + step % period] for step in range(room)]
    return []


def test_what_followed_the_last_time_is_proposed() -> None:
    assert guess([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], room=3) == [4, 5, 6]


def test_the_longest_ngram_wins_over_a_later_short_one() -> None:
    assert guess([1, 2, 3, 4, 9, 3, 8, 1, 2, 3], room=1) == [4]


def test_of_equal_ngrams_the_last_one_counts() -> None:
    assert guess([1, 2, 7, 1, 2, 8, 1, 2], room=1) == [8]


def test_a_period_goes_on() -> None:
    assert guess([5, 1, 2, 1, 2], room=5) == [1, 2, 1, 2, 1]


def test_what_was_never_seen_proposes_nothing() -> None:
    assert guess([1, 2, 3, 4]) == []
    assert guess([1]) == []


def test_an_ngram_shorter_than_the_minimum_is_not_looked_up() -> None:
    assert guess([1, 2, 3, 4, 9, 3], shortest=2) == []
    assert guess([1, 2, 3, 4, 9, 2, 3], shortest=2, room=1) == [4]


def test_without_prompt_lookup_the_prompt_is_not_looked_at() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 3]
    assert guess(tokens, prompt=4, room=1) == [4]
    assert guess(tokens, prompt=4, prompt_lookup=False) == []
    assert guess([1, 2, 9, 6, 1, 2, 7, 1, 2], prompt=4, prompt_lookup=False, room=1) == [7]


@pytest.mark.parametrize("prompt_lookup", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_an_index_that_grows_gives_what_a_scan_gives(seed: int, prompt_lookup: bool) -> None:
    chance = random.Random(seed)
    options = NgramOptions(longest=3, shortest=1 + seed % 2, prompt_lookup=prompt_lookup)
    proposer = NgramProposer(options, VOCAB)
    tokens = [chance.randrange(6) for _ in range(20)]
    first = 0 if prompt_lookup else 20
    for _ in range(80):
        tokens += [chance.randrange(6) for _ in range(chance.randrange(1, 4))]
        draft = proposer.propose([row(tokens, 20, 4)]).get(1)
        found = list(draft.tokens) if draft else []
        assert found == scanned(tokens, 3, options.shortest, first, 4)


def test_a_step_at_32k_tokens_costs_a_handful_of_index_operations() -> None:
    chance = random.Random(0)
    tokens = [chance.randrange(VOCAB) for _ in range(32_768)]
    index = NgramIndex(shortest=1, longest=4, vocab=VOCAB)
    while index.operations < 4 * (len(tokens) - 4):
        before = index.operations
        index.extend(tokens, CATCH_UP)
        assert 0 < index.operations - before <= 4 * CATCH_UP
    for _ in range(100):
        before = index.operations
        tokens.append(chance.randrange(VOCAB))
        index.extend(tokens, CATCH_UP)
        index.followers(tokens, 5)
        assert index.operations - before <= 8


def test_finished_sequences_are_forgotten() -> None:
    proposer = NgramProposer(NgramOptions(), VOCAB)
    proposer.propose([row([1, 2, 1], uid=uid) for uid in range(3)])
    proposer.finished([0, 2, 7])
    assert list(proposer._kept) == [1]


def test_a_minimum_above_the_maximum_is_one_clear_line() -> None:
    with pytest.raises(SettingError, match="--ngram-min 5 is above --ngram-max 4") as caught:
        NgramOptions(shortest=5)
    assert "\n" not in str(caught.value)
