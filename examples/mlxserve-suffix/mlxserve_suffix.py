"""Guess that a reply goes on as replies that began alike went on: agents repeat themselves.

SuffixDecoding (Oliaro et al. 2024, arXiv 2411.04975) keeps suffix trees of finished replies and of
the running one, finds the running one's last tokens in them, and drafts the most frequent
continuation, the longer the match the more of it. Here a node of the tree is not an object but what
it stands for: the places where its tokens occur. Those are found from an index of the last few
tokens, so that a reply is added and dropped at the price of one entry a token.
"""

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from attrs import define, field, frozen
from attrs.validators import and_, ge, gt, le

from mlxserve_hookspecs import DraftRequest, Proposer, TokenProposer, hookimpl, option

CATCH_UP: Final = 4096
"""Tokens indexed per guess and row: a long prompt must not hold up the others' next token."""

PLACES: Final = 32
"""Occurrences kept of a few tokens, the last ones: a guess takes a fixed time."""

Tokens: TypeAlias = "array[int]"
Place: TypeAlias = tuple[Tokens, int]
"""A text, and the position in it of what followed."""


@frozen
class SuffixOptions:
    """Speculation from finished replies."""

    kept: int = option(
        100_000,
        "tokens of finished replies kept, the oldest reply goes first; about 0.4 kB each",
        flag="--suffix-max-cached-tokens",
        check=ge(0),
    )
    shortest: int = option(
        2, "tokens that must match at least", flag="--suffix-min-match", check=ge(1)
    )
    longest: int = option(24, "tokens compared at most", flag="--suffix-max-depth", check=ge(1))
    factor: float = option(
        1.0, "most draft tokens per matched token", flag="--suffix-max-spec-factor", check=gt(0.0)
    )
    probability: float = option(
        0.1,
        "how often a draft must have followed its match, as a share",
        flag="--suffix-min-token-prob",
        check=and_(ge(0.0), le(1.0)),
    )


@define
class Suffix:
    """Proposes for every row whose last tokens are known."""

    options: SuffixOptions

    @hookimpl
    def make_proposer(self) -> Proposer:
        """Answer for every model: what is guessed was said, so it is of the vocabulary."""
        return SuffixProposer(self.options)


@define(eq=False)
class Row:
    """What is kept for a live row: its own index, which grows with it.

    Attributes:
        request: The row; its tokens are the engine's own and go on growing.
        own: Prompt and reply so far.
        tokens: A copy of what is indexed.
    """

    request: DraftRequest
    own: "Index"
    tokens: Tokens = field(factory=lambda: array("I"))

    def extend(self) -> None:
        """Index what is new."""
        begun = len(self.tokens)
        self.tokens.extend(self.request.tokens[begun : begun + CATCH_UP])
        self.own.add(self.tokens, begun)


@define(eq=False)
class SuffixProposer(TokenProposer[Row]):
    """Looks in finished replies and in the row itself, and takes what is likelier.

    Attributes:
        options: Sizes and limits.
        replies: The index of what finished replies said.
        size: Tokens of those.
    """

    options: SuffixOptions
    replies: "Index" = field(init=False)
    size: int = field(default=0, init=False)
    _ended: deque[tuple[Tokens, int]] = field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self.replies = Index(self.options.shortest)

    def begin(self, row: DraftRequest) -> Row:
        """Want every row: whether its last tokens are known shows when they are there."""
        return Row(row, Index(self.options.shortest))

    def guess(self, kept: Row, row: DraftRequest) -> Sequence[int]:
        """Return the continuation of the highest score, which is its expected accepted length."""
        kept.extend()
        tail = array("I", row.tokens[-self.options.longest :])
        places = (index.places(tail) for index in (self.replies, kept.own))
        drafts = (draft for found in places for draft in self._drafts(tail, found, row.room))
        return max(drafts, key=lambda draft: draft[1], default=((), 0.0))[0]

    def finished(self, uids: Sequence[int]) -> None:
        """Learn from the rows' replies, then forget the rows."""
        for uid in uids:
            row = self._kept.get(uid)
            if row is not None:
                self.learn(row.request.tokens, row.request.prompt_tokens)
        super().finished(uids)

    def learn(self, tokens: Sequence[int], prompt_tokens: int) -> None:
        """Keep a reply, and of its prompt what a match may compare; drop what is too much."""
        first = max(0, prompt_tokens - self.options.longest)
        text, begun = array("I", tokens[first:]), prompt_tokens - first
        if begun >= len(text) or len(text) > self.options.kept:
            return
        self.replies.add(text, begun)
        self._ended.append((text, begun))
        self.size += len(text)
        while self.size > self.options.kept:
            oldest, start = self._ended.popleft()
            self.replies.drop(oldest, start)
            self.size -= len(oldest)

    def _drafts(
        self, tail: Tokens, places: Sequence[Place], room: int
    ) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield for each length of match what follows it most often, with its score."""
        lengths = [match_length(tail, place) for place in places]
        for length in set(lengths):
            alike = [p for p, n in zip(places, lengths, strict=True) if n >= length]
            most = min(room, int(self.options.factor * length))
            yield continuation(alike, most, self.options.probability)


@define(eq=False)
class Index:
    """Where each run of a few tokens was followed by something, the last ``PLACES`` times.

    Attributes:
        size: Tokens of a run.
    """

    size: int
    _places: dict[tuple[int, ...], list[Place]] = field(factory=dict)

    def add(self, text: Tokens, begun: int) -> None:
        """Note the places of ``text`` from position ``begun`` on."""
        for run, at in self._runs(text, begun):
            places = self._places.setdefault(run, [])
            places.append((text, at))
            del places[:-PLACES]

    def drop(self, text: Tokens, begun: int) -> None:
        """Forget them; ``text`` was added before all others that are here."""
        for run, _ in self._runs(text, begun):
            places = self._places.get(run)
            if places and places[0][0] is text:
                del places[0]
                if not places:
                    del self._places[run]

    def places(self, tail: Tokens) -> Sequence[Place]:
        """Return where the last tokens of ``tail`` were followed by something, latest first."""
        return self._places.get(tuple(tail[-self.size :]), [])[::-1]

    def _runs(self, text: Tokens, begun: int) -> Iterator[tuple[tuple[int, ...], int]]:
        for at in range(max(begun, self.size), len(text)):
            yield tuple(text[at - self.size : at]), at


def match_length(tail: Tokens, place: Place) -> int:
    """Return how many of the last tokens of ``tail`` stand before ``place``."""
    text, at = place
    most = min(len(tail), at)
    if text[at - most : at] == tail[len(tail) - most :]:
        return most
    return next(n for n in range(most) if text[at - 1 - n] != tail[-1 - n])


def continuation(
    places: Iterable[Place], most: int, probability: float
) -> tuple[tuple[int, ...], float]:
    """Return up to ``most`` tokens that followed most often, and the sum of their probabilities.

    A token's probability is the share of ``places`` that it and all before it followed; of equals
    the latest counts.
    """
    runs: dict[tuple[int, ...], int] = Counter(tuple(t[at : at + most]) for t, at in places)
    whole, score, tokens = sum(runs.values()), 0.0, list[int]()
    for step in range(most):
        counts: dict[int, int] = {}
        for run, times in runs.items():
            if step < len(run):
                counts[run[step]] = counts.get(run[step], 0) + times
        token = max(counts, key=counts.__getitem__, default=None)
        if token is None or counts[token] < probability * whole:
            break
        tokens.append(token)
        score += counts[token] / whole
        runs = {run: n for run, n in runs.items() if run[step : step + 1] == (token,)}
    return tuple(tokens), score
