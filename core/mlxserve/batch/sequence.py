"""One choice of one request, from the queue to its last token."""

import time
from collections.abc import Mapping
from collections.abc import Sequence as Items
from concurrent.futures import Future
from enum import Enum, auto
from math import inf
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve.pool.blocks import SCRATCH
from mlxserve.pool.table import Row
from mlxserve.sampling.batch import SampledRow, base_key
from mlxserve.text.detokenizer import Detokenizer
from mlxserve.text.stops import StopMatcher
from mlxserve_hookspecs import (
    Array,
    Block,
    BlockKey,
    Candidate,
    Constraint,
    GenerationRequest,
    SchedulingPhase,
    StopCondition,
    TextCodec,
    TokenLogprob,
    Usage,
)


@frozen
class Part:
    """Blocks that one tier loads."""

    tier: str
    first: int
    count: int
    blocks: "Future[Items[Block]]"


@define(eq=False)
class Restore:
    """What is held of a sequence's prefix: pinned in memory, or being loaded.

    Attributes:
        blocks: How many.
        numbers: Per group the blocks in memory, by place; ``SCRATCH`` is to be loaded or, in a
            group with a window, not needed.
        first: Per group the first block that is needed.
        parts: Blocks to come.
        state: The recurrent state after the last of them, for a model that has any.
        holder: Who had the state.
        seen: The cache's generation when this was looked up.
        until: Monotonic seconds after which what is not loaded is given up.
    """

    blocks: int
    numbers: list[list[int]]
    first: list[int]
    parts: tuple[Part, ...] = ()
    state: "Future[tuple[Array | bytes, ...] | None] | None" = None
    holder: str = ""
    seen: int = 0
    until: float = inf

    @property
    def done(self) -> bool:
        """Whether everything is loaded, or given up."""
        return self.until < time.monotonic() or all(future.done() for future in self.futures)

    @property
    def futures(self) -> "list[Future[Any]]":
        """What is to come."""
        state = [] if self.state is None else [self.state]
        return [*(part.blocks for part in self.parts), *state]

    @property
    def pinned(self) -> int:
        """Blocks of the first group that are in memory."""
        return sum(n != SCRATCH for n in self.numbers[0]) if self.numbers else 0

    @property
    def pins(self) -> bool:
        """Whether blocks of any group are held back for it."""
        return any(n != SCRATCH for numbers in self.numbers for n in numbers)


@frozen(eq=False)
class Inquiry:
    """Tiers that find out what they have of a sequence's prefix.

    Attributes:
        answers: Done when they know.
        until: Monotonic seconds after which what they know is taken for all.
    """

    answers: "tuple[Future[object], ...]"
    until: float

    @property
    def done(self) -> bool:
        """Whether they know, or are not waited for."""
        return self.until < time.monotonic() or all(future.done() for future in self.answers)


@frozen
class Checkpoint:
    """Recurrent state after some full blocks of a sequence."""

    blocks: int
    state: tuple[Array, ...] = field(repr=False)


class Phase(Enum):
    """Where a sequence is."""

    WAITING = auto()
    PREFILLING = auto()
    READY = auto()
    DECODING = auto()
    DRAINING = auto()
    FINISHED = auto()


PHASES: Final[Mapping[Phase, SchedulingPhase]] = {
    Phase.WAITING: "waiting",
    Phase.PREFILLING: "prefilling",
    Phase.READY: "ready",
    Phase.DECODING: "decoding",
}
"""Those in which a scheduling policy sees it."""


@define(eq=False)
class Sequence:
    """One record per sequence; whatever is known of it is here.

    Attributes:
        uid: Unique in the life of the engine.
        request: What was asked.
        choice: Which of the request's choices.
        arrived: Monotonic seconds.
        key: The base of its random numbers.
        max_tokens: Most tokens to generate: the request's number within what KV can hold.
        eos: Tokens that end the reply.
        tokens: Prompt and what was generated and read.
        row: Its KV, while it has a place.
        launched: Tokens launched on the device and not read yet.
        siblings: Further choices that fork from this one when its prefill is done.
        held_back: Whether it must wait in the queue: its constraint is still being made.
        constraint: What a plugin allows and forbids, if the request demands it.
        conditions: What plugins may end it by.
        masks: What the constraint allows next, and after each token of a draft.
        cached: Prompt tokens that came from each cache tier.
        chain: Keys of the full blocks of its tokens.
        kept: Blocks that the cache tiers were offered.
        inquiry: What tiers find out about its prefix.
        restore: Cached blocks on their way to it.
        queued: What a scheduling policy sees of it while it waits.
        behind: Whose prefill of a shared prefix it waits for.
        checkpoint: The last recurrent state at the end of a block.
        pooled: Vectors that were told of, if such are wanted.
    """

    uid: int
    request: GenerationRequest
    choice: int
    arrived: float
    key: int
    max_tokens: int
    eos: frozenset[int]
    detokenizer: Detokenizer
    stops: StopMatcher
    tokens: list[int]
    phase: Phase = Phase.WAITING
    row: Row | None = None
    launched: int = 0
    preempted: int = 0
    siblings: list["Sequence"] = field(factory=list)
    held_back: bool = False
    constraint: Constraint | None = None
    conditions: Items[StopCondition] = ()
    masks: list[Array | None] = field(factory=list)
    cached: dict[str, int] = field(factory=dict)
    chain: list[BlockKey] = field(factory=list)
    kept: int = 0
    inquiry: Inquiry | None = None
    restore: Restore | None = None
    queued: Candidate | None = None
    behind: "Sequence | None" = None
    checkpoint: Checkpoint | None = None
    accepted_drafts: int = 0
    rejected_drafts: int = 0
    prompt_logprobs: list[TokenLogprob] = field(factory=list)
    pooled: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt)

    @property
    def generated(self) -> int:
        """Tokens generated and read."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def to_launch(self) -> int:
        """Tokens that may still be launched."""
        return self.max_tokens - self.generated - self.launched

    @property
    def held(self) -> int:
        """Tokens whose KV is in the row."""
        return 0 if self.row is None else self.row.length

    @property
    def overtaken(self) -> bool:
        """Whether its recurrent state is ahead of its row's length: a verification is in flight."""
        return self.launched > 0 and self.held < len(self.tokens) - 1 + self.launched

    @property
    def remaining_prefill(self) -> int:
        """Tokens to prefill: all but the last, which enters decoding."""
        return max(len(self.tokens) - 1 - self.held, 0)

    @property
    def eos_banned(self) -> bool:
        """Whether the reply must not end with the next token."""
        return self.too_short(0)

    def too_short(self, drafted: int) -> bool:
        """Whether the reply must not end after ``drafted`` more tokens."""
        return self.generated + self.launched + drafted < self.request.stop.min_tokens

    @property
    def alive(self) -> bool:
        """Whether anything more may be told of it."""
        return self.phase is not Phase.FINISHED

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.generated,
            cached_tokens=sum(self.cached.values()),
            cached_by_tier=dict(self.cached),
            accepted_draft_tokens=self.accepted_drafts,
            rejected_draft_tokens=self.rejected_drafts,
        )

    def candidate(self) -> Candidate:
        """Return what a scheduling policy sees."""
        found = 0 if self.restore is None else self.restore.blocks
        return Candidate(
            id=self.request.id,
            uid=self.uid,
            phase=PHASES[self.phase],
            priority=self.request.priority,
            tenant=self.request.tenant,
            arrived=self.arrived,
            deadline=self.deadline,
            prompt_tokens=self.prompt_tokens,
            remaining_prefill=self.remaining_prefill,
            cached_tokens=len(self.chain[0].tokens) * found if found else self.held,
            cached_key=self.chain[found - 1].hash if found else None,
            generated=self.generated,
            preempted=self.preempted,
        )

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which it ends if it has not got on; ``None`` without a limit."""
        request = self.request
        limits = [request.request_timeout]
        if self.first_token_at is None:
            limits.append(request.first_token_timeout)
        return min((self.arrived + s for s in limits if s is not None), default=None)

    def sampled_row(self, draft: Items[int] = ()) -> SampledRow:
        """Return what sampling sees after ``draft``; only penalties look at the tokens."""
        penalised = self.request.sampling.penalised
        ends = self.eos | self.request.stop.token_ids
        return SampledRow(
            params=self.request.sampling,
            key=self.key,
            banned=ends if self.too_short(len(draft)) else frozenset(),
            prompt=self.request.prompt if penalised else (),
            generated=[*self.tokens[self.prompt_tokens :], *draft] if penalised else (),
            mask=self.masks[len(draft)] if len(draft) < len(self.masks) else None,
        )


def sequences_of(
    request: GenerationRequest,
    *,
    arrived: float,
    seed: int,
    uids: Items[int],
    text: TextCodec,
    max_tokens: int,
) -> list[Sequence]:
    """Return a request's sequences: one per choice, the others as siblings of the first."""
    eos = frozenset() if request.stop.ignore_eos else text.eos_token_ids
    made = [
        Sequence(
            uid=uid,
            request=request,
            choice=choice,
            arrived=arrived,
            key=base_key(seed, choice),
            max_tokens=max_tokens,
            eos=eos,
            detokenizer=Detokenizer(
                text,
                skip_special_tokens=request.skip_special_tokens,
                after=request.prompt if request.continues else (),
            ),
            stops=StopMatcher(
                request.stop.strings, request.stop.skip, within=request.stop.within_skip
            ),
            tokens=list(request.prompt),
        )
        for choice, uid in enumerate(uids)
    ]
    made[0].siblings = made[1:]
    return made
