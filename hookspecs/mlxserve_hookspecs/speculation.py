"""Hooks that guess ahead of the model.

The core verifies every guess, so a bad one costs time and never changes a greedy answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from attrs import define, field, frozen

from mlxserve_hookspecs.arrays import Array
from mlxserve_hookspecs.engine import TextCodec
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.requests import SamplingParams

S = TypeVar("S")
"""What a proposer keeps for a row."""


@frozen(kw_only=True)
class DraftRequest:
    """One decoding row as a proposer sees it.

    Attributes:
        uid: The row's sequence, for as long as it lives.
        tokens: Prompt and reply so far; grows, is never rewritten, must not be changed.
        prompt_tokens: How many of them are the prompt.
        room: Most draft tokens that this row can use now.
        sampling: How the row is sampled.
        prediction: Tokens that the client expects the reply to resemble.
        hidden: For a proposer that asks for hidden states: those of ``tokens[-1 - n : -1]``,
            ``[n, layers, size]`` in the model's dtype, all that have come about since it was last
            asked for this row; the last token has not run yet. Fewer where tokens were not run:
            what a cache brought back has none. ``None``: none.
    """

    uid: int
    tokens: Sequence[int] = field(repr=False)
    prompt_tokens: int
    room: int
    sampling: SamplingParams
    prediction: tuple[int, ...] = field(default=(), repr=False)
    hidden: Array | None = field(default=None, repr=False)


@frozen(kw_only=True)
class HiddenStates:
    """Which hidden states of the served model a proposer reads.

    Attributes:
        layers: Counted as ``output_hidden_states`` of transformers does: 0 is what the first layer
            takes, ``i`` what layer ``i`` takes from the one before it, and the number of layers is
            what the head takes, after the last norm; -1 is that one, too.
        most: Tokens of a row that are kept until it is asked for; older ones are let go.
    """

    layers: tuple[int, ...]
    most: int = 256


@frozen
class Draft:
    """Tokens that a proposer guesses will come next.

    Attributes:
        tokens: The guesses, in order.
        probabilities: The distribution each was drawn from, ``[len(tokens), vocab]``, for a
            proposer that samples; ``None`` for a deterministic one.
    """

    tokens: tuple[int, ...] = ()
    probabilities: Array | None = None


@frozen(kw_only=True)
class Verdict:
    """How many tokens of a draft the model kept; ``drafted`` 0 is a row without one."""

    uid: int
    drafted: int
    accepted: int


@frozen(kw_only=True)
class DraftRoom:
    """One decoding row as a planner sees it: at most ``most`` draft tokens are of use.

    0 for a row that no proposer wants: it is there because it runs in the same pass.
    """

    uid: int
    most: int


class DraftPlanner(Protocol):
    """Decides how many draft tokens each row may have. Engine thread, once per iteration.

    Where it fails nothing is drafted in this iteration.
    """

    def plan(self, rows: Sequence[DraftRoom]) -> Mapping[int, int]:
        """Return draft lengths by ``uid``; 0 and left out mean none.

        When all are 0 the iteration runs as if there were no speculation at all: the next step
        is launched before this one is read.
        """

    def learn(self, verdicts: Sequence["Verdict"], seconds: float) -> None:
        """Learn from a pass: what was drafted and kept in each of its rows, and its duration.

        ``seconds`` runs from before the proposers are asked until the tokens have been read and
        handed on: what one iteration with drafts takes when nothing overlaps.
        """

    def finished(self, uids: Sequence[int]) -> None:
        """Forget what is kept for these sequences."""


class Proposer(Protocol):
    """Guesses. Called on the engine thread, once per iteration. See ``TokenProposer``, too.

    Where it fails it has no draft in this iteration, and the next proposer is asked. So it is for
    a call that raises, and for an answer with a draft that is too long, not of this vocabulary,
    or for a row that was not in the batch.
    """

    def wants(self, batch: Sequence[DraftRequest]) -> Collection[int]:
        """Return the ``uid`` of rows for which there may be a guess; the others are not planned.

        Rows that nobody wants keep what plain decoding has: the next step is launched before the
        last one is read. So this is asked while the last token may still be in flight.
        """

    def propose(self, batch: Sequence[DraftRequest]) -> Mapping[int, Draft]:
        """Return drafts by ``uid``; rows left out are offered to the next proposer.

        A row for which nobody has a draft decodes one token, as without speculation.
        """

    def finished(self, uids: Sequence[int]) -> None:
        """Forget what is kept for these sequences."""


class HiddenStateProposer(Proposer, Protocol):
    """A proposer that guesses from the served model's hidden states, as heads trained for it do.

    EAGLE (Li et al. 2024) and multi-token prediction run a layer or two over them and the
    embeddings of the tokens after them; Medusa (Cai et al. 2024) takes the last one only:
    ``HiddenStates(layers=(-1,), most=1)``. ``ModelHost`` lends them the served model's embeddings
    and head. All that a ``Proposer`` promises holds.
    """

    def hidden_states(self) -> HiddenStates | None:
        """Return what is to be in each ``DraftRequest.hidden``; ``None``: nothing.

        Asked once, when the proposer was made. A model whose layers cannot be watched, or that
        has no such layer, ends the start.
        """


@define(eq=False)
class TokenProposer(ABC, Generic[S]):
    """A ``Proposer`` of two methods: what is kept for a row, and which tokens come next.

    For deterministic guesses, row by row. A proposer that guesses for all rows at once, or with
    probabilities, has the three methods of ``Proposer`` itself.
    """

    _kept: dict[int, S | None] = field(factory=dict, init=False, repr=False)

    @abstractmethod
    def begin(self, row: DraftRequest) -> S | None:
        """Return what is kept for a row as long as it lives; ``None``: nothing is guessed for it.

        Called once per row, perhaps while its last token is still in flight: must be quick.
        """

    @abstractmethod
    def guess(self, kept: S, row: DraftRequest) -> Sequence[int]:
        """Return up to ``row.room`` tokens that will come next, in order; none if nobody knows."""

    def wants(self, batch: Sequence[DraftRequest]) -> Collection[int]:
        """Return the rows for which something is kept."""
        for row in batch:
            if row.uid not in self._kept:
                self._kept[row.uid] = self.begin(row)
        return [row.uid for row in batch if self._kept[row.uid] is not None]

    def propose(self, batch: Sequence[DraftRequest]) -> Mapping[int, Draft]:
        """Return the guesses, where there are any."""
        self.wants(batch)  # a row may be new here too
        drafts = {}
        for row in batch:
            kept = self._kept[row.uid]
            if kept is not None and (tokens := self.guess(kept, row)):
                drafts[row.uid] = Draft(tuple(tokens))
        return drafts

    def finished(self, uids: Sequence[int]) -> None:
        """Forget what was kept for them."""
        for uid in uids:
            self._kept.pop(uid, None)


class HostedModel(Protocol):
    """A second model that the core runs for a proposer, on rows of its own. Engine thread."""

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""

    @property
    def text(self) -> TextCodec:
        """Its tokenizer."""

    def continue_greedily(
        self, batch: Sequence[DraftRequest], context: int
    ) -> Mapping[int, tuple[int, ...]]:
        """Return each row's next ``room`` most probable tokens, all rows in one chain of passes.

        A row's KV stays from call to call: what the tokens have in common with what it holds is
        not run again. A row that is new, or too far behind, starts from the last ``context``
        tokens.
        """

    def forget(self, uids: Sequence[int]) -> None:
        """Free these sequences' rows."""


class ModelHost(Protocol):
    """Loads second models. Engine thread, at start."""

    @property
    def text(self) -> TextCodec:
        """The served model's tokenizer."""

    def embed(self, tokens: Array) -> Array:
        """Return the served model's embeddings ``[..., size]`` of tokens ``[...]``; lazy.

        As its table has them: some models scale them before their first layer.

        Raises:
            ModelError: It has no one table.
        """

    def logits(self, states: Array) -> Array:
        """Return the served model's logits ``[..., vocab]`` of what its head takes; lazy.

        Args:
            states: ``[..., size]``, after the last norm.

        Raises:
            ModelError: It does something more to its logits than its head does.
        """

    def load(self, reference: str) -> HostedModel:
        """Load the model that ``reference`` names, in the words of ``--model``.

        Raises:
            ModelError: It leads nowhere, or its layers cannot take tokens back.
        """


@frozen(kw_only=True)
class Verification:
    """What a pass over drafts found, for an acceptance rule; one entry per row and position.

    Attributes:
        probabilities: ``[rows, k + 1, vocab]`` float32: the target's distribution after
            penalties, bias, masks, temperature and filters, at each draft and after the last.
        drafts: ``[rows, k]`` int32, padded with 0.
        lengths: ``[rows]`` int32: draft tokens of each row.
        draft_probabilities: ``[rows, k, vocab]``, or ``None`` for deterministic drafts.
        uniforms: ``[rows, k + 1]`` float32 in [0, 1): each row's own random numbers.
    """

    probabilities: Array
    drafts: Array
    lengths: Array
    draft_probabilities: Array | None
    uniforms: Array


class AcceptanceRule(Protocol):
    """Decides which drafts stay where a row samples.

    Greedy rows are settled by the core: a draft stays if it is the argmax. So are, under a
    lossless rule, the drafts of a deterministic proposer: the token is drawn as without
    speculation, and a draft stays if it is that token. That is rejection sampling for a
    deterministic draft (Leviathan et al. 2023), and a seed gives the tokens it gives without.

    Where it fails no draft of the rows that it decides for is kept in this pass.
    """

    @property
    def lossless(self) -> bool:
        """Whether the output's distribution is the target's own."""

    def accept(self, verification: Verification) -> tuple[Array, Array]:
        """Return accepted draft counts ``[rows]`` and weights ``[rows, vocab]`` of what follows.

        The token after the accepted drafts is drawn from the weights. Builds a lazy graph only.
        """


@hookspec
def make_proposer(vocab_size: int, host: ModelHost) -> Proposer | None:
    """Make a proposer.

    **Gather.** Every plugin is asked; ``None`` adds none. A row's draft is that of the first
    proposer that has one, in the order of the plugins. A proposer that guesses from the model's
    hidden states has the ``hidden_states`` of ``HiddenStateProposer`` too.

    Called once at start, on the engine thread, after the model is loaded. A plugin that raises
    here, or answers with what is no proposer, ends the start.
    """


@hookspec(firstresult=True)
def make_draft_planner() -> DraftPlanner | None:
    """Make the planner of draft lengths.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass. Without any, nothing is
    drafted.

    Called once at start, on the engine thread, if there is a proposer. A plugin that raises here,
    or answers with something else, ends the start.
    """


@hookspec(firstresult=True)
def make_acceptance_rule() -> AcceptanceRule | None:
    """Make the rule that accepts drafts where a row samples.

    **Ask.** The first plugin to answer is heard; return ``None`` to pass.

    Called once at start, on the engine thread, if there is a proposer. A plugin that raises here,
    or answers with something else, ends the start.
    """


@hookspec
def drafts_verified(verdicts: Sequence[Verdict], seconds: float) -> None:
    """Learn how many guessed tokens the model kept, and how long the pass took.

    **Tell.** Every plugin hears it; return nothing.

    Called on the engine thread after the forward pass of an iteration that had drafts.
    """
