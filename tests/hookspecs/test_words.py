"""The layout of a token's words, counted."""

import pytest

from mlxserve_hookspecs import WordFormat


@pytest.mark.parametrize(
    ("word_format", "widths", "itemsize", "words"),
    [
        (WordFormat(), (128, 128), 2, 256),
        (WordFormat(), (192, 128), 4, 320),
        (WordFormat(bits=8), (128, 128), 2, 32 + 32 + 4),
        (WordFormat(bits=8), (128, 128), 4, 32 + 32 + 8),
        (WordFormat(bits=4, group_size=32), (64, 64), 2, 8 + 8 + 4),
        (WordFormat(bits=8), (192, 128), 2, 48 + 32 + 3 + 2),
    ],
    ids=["plain", "unequal", "8 bit", "8 bit, float32", "4 bit, groups of 32", "8 bit, unequal"],
)
def test_words_of_a_token_and_head(
    word_format: WordFormat, widths: tuple[int, int], itemsize: int, words: int
) -> None:
    assert word_format.words(*widths, itemsize) == words


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"bits": 8, "group_size": 48}], ids=str)
def test_other_codes_and_groups_are_no_format(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        WordFormat(**wrong)
