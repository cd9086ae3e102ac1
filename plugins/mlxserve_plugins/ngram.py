"""Guess what followed the same few tokens the last time: fast copies, without a second model."""

from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen
from attrs.validators import ge

from mlxserve_hookspecs import (
    DraftRequest,
    Proposer,
    SettingError,
    TokenProposer,
    hookimpl,
    option,
)

CATCH_UP: Final = 4096
"""Tokens indexed per call and sequence: a long prompt must not hold up the others' next token."""


@frozen
class NgramOptions:
    """Prompt lookup: speculation from the text itself."""

    longest: int = option(4, "n-gram max size", flag="--ngram-max", check=ge(1))
    shortest: int = option(1, "n-gram min size", flag="--ngram-min", check=ge(1))
    prompt_lookup: bool = option(
        True, "look in the prompt too, not only in what was generated", flag="--ngram-prompt-lookup"
    )

    def __attrs_post_init__(self) -> None:
        if self.shortest > self.longest:
            raise SettingError(
                f"--ngram-min {self.shortest} is above --ngram-max {self.longest}: "
                "lower one or raise the other"
            )


@define
class Ngram:
    """Proposes for every row that repeats itself."""

    options: NgramOptions

    @hookimpl(trylast=True)
    def make_proposer(self, vocab_size: int) -> Proposer:
        """Answer for every model, after proposers that know more of a row than its text."""
        return NgramProposer(self.options, vocab_size)


@define(eq=False)
class NgramProposer(TokenProposer["NgramIndex"]):
    """Keeps one index per sequence, which grows with it.

    Attributes:
        options: Sizes, and where to look.
        vocab: Width of the logits.
    """

    options: NgramOptions
    vocab: int

    def begin(self, row: DraftRequest) -> "NgramIndex":
        """Want every row: whether its next token was seen before shows when it is there."""
        first = 0 if self.options.prompt_lookup else row.prompt_tokens
        return NgramIndex(self.options.shortest, self.options.longest, self.vocab, first)

    def guess(self, kept: "NgramIndex", row: DraftRequest) -> Sequence[int]:
        """Return what followed the row's last tokens, where they were seen before."""
        kept.extend(row.tokens, CATCH_UP)
        return kept.followers(row.tokens, row.room)


@define(eq=False)
class NgramIndex:
    """Where each n-gram of a growing sequence was last followed by something.

    Attributes:
        shortest: Smallest n.
        longest: Largest n.
        vocab: Tokens are below it, so that an n-gram is a number in this base.
        first: Tokens before this position are not looked at.
        operations: Entries written and read so far.
    """

    shortest: int
    longest: int
    vocab: int
    first: int = 0
    operations: int = 0
    _done: int = 0
    _last: list[dict[int, int]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._done = self.first
        self._last = [{} for _ in range(self.longest + 1)]

    def extend(self, tokens: Sequence[int], most: int) -> None:
        """Note the n-grams before each new position, for at most ``most`` positions.

        Only what has a follower is noted, so that a sequence's end never finds itself.
        """
        end = min(len(tokens), self._done + most)
        for at in range(self._done, end):
            key, base = 0, 1
            for size in range(1, min(self.longest, at - self.first) + 1):
                key += tokens[at - size] * base
                base *= self.vocab
                if size >= self.shortest:
                    self._last[size][key] = at
                    self.operations += 1
        self._done = max(end, self._done)

    def followers(self, tokens: Sequence[int], count: int) -> tuple[int, ...]:
        """Return ``count`` tokens that followed the longest known n-gram at the end of ``tokens``.

        Where the copy reaches the end of the sequence it goes on with what it has just copied, as
        LZ77 does (Ziv and Lempel 1977): a period repeats.
        """
        for size in range(min(self.longest, len(tokens) - self.first), self.shortest - 1, -1):
            self.operations += 1
            at = self._last[size].get(self._key(tokens, size))
            if at is not None:
                period = len(tokens) - at
                return tuple(tokens[at + step % period] for step in range(count))
        return ()

    def _key(self, tokens: Sequence[int], size: int) -> int:
        key = 0
        for token in tokens[-size:]:
            key = key * self.vocab + token
        return key
