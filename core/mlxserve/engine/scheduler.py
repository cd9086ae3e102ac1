"""Who waits, who prefills, who decodes; who must give way when KV runs out."""

from collections.abc import Sequence as Items

from attrs import define, field, frozen

from mlxserve.batch.sequence import Phase, Sequence
from mlxserve.batch.store import Chunk, RowStore
from mlxserve.cache.base import Cache
from mlxserve.engine.pace import Pace
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import Candidate, Load, SchedulingPolicy

AHEAD = 1024
"""Tokens of a reply for which a row looks for a place in one piece."""

PREFETCHED = 4
"""Sequences whose cached blocks are loaded while they still queue."""


@frozen(kw_only=True)
class Capacity:
    """What may run at once.

    Attributes:
        decoding: Rows in decode.
        prefilling: Rows in prefill, or prefilled and waiting for a place in decode.
        live: Rows altogether.
        blocks: Blocks of KV.
        block_size: Tokens per block.
        chunk_alone: Prefill tokens per iteration when nobody decodes.
        chunk_shared: Prefill tokens per iteration beside decoding rows; ``None`` follows from
            measured time.
    """

    decoding: int
    prefilling: int
    live: int
    blocks: int
    block_size: int
    chunk_alone: int
    chunk_shared: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of KV that fit."""
        return self.blocks * self.block_size


@define(eq=False)
class Scheduler:
    """Moves sequences through their phases; decides with the policy, never runs the model."""

    store: RowStore
    policy: SchedulingPolicy
    capacity: Capacity
    cache: Cache
    pace: Pace = field(factory=Pace)
    agreement: Agreement = ALONE
    waiting: list[Sequence] = field(factory=list)
    prefilling: list[Sequence] = field(factory=list)
    ready: list[Sequence] = field(factory=list)
    decoding: list[Sequence] = field(factory=list)
    draining: list[Sequence] = field(factory=list)
    pooling: list[Sequence] = field(factory=list)
    preemptions: int = 0
    _full: bool = False

    @property
    def running(self) -> list[Sequence]:
        """Sequences that own a row."""
        return [*self.prefilling, *self.ready, *self.decoding]

    @property
    def all(self) -> list[Sequence]:
        """Every sequence that is not finished, forks to come included."""
        mine = [*self.waiting, *self.running, *self.draining, *self.pooling]
        return [*mine, *(s for lead in mine for s in lead.siblings)]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and self.only_waits

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence into the queue, or to those that wait for vectors and need no row."""
        sequence.phase, sequence.queued = Phase.WAITING, None
        pooled = sequence.request.pooling is not None
        (self.pooling if pooled else self.waiting).append(sequence)
        self._full = False

    def finish(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out, wherever it is, and free its row.

        Without ``keep`` nothing that it computed is kept for others: it cannot be trusted.
        """
        places = (self.waiting, self.prefilling, self.ready, self.decoding, self.draining)
        for place in (*places, self.pooling):
            if sequence in place:
                place.remove(sequence)
        self.cache.forget(sequence)
        self._release(sequence, keep=keep)
        sequence.phase = Phase.FINISHED

    def orphan(self, sequence: Sequence) -> None:
        """Let a finished sequence's siblings go on without it: each from the queue."""
        for sibling in sequence.siblings:
            self.enqueue(sibling)
        sequence.siblings = []

    # -- one iteration ---------------------------------------------------------------------

    @property
    def only_waits(self) -> bool:
        """Whether there is work, and none of it can be run before something comes."""
        return not (self.prefilling or self.ready or self.decoding or self.draining or self.pooling)

    def impossible(self) -> list[Sequence]:
        """Return waiting sequences that have grown past what KV can ever hold."""
        return [s for s in self.waiting if s.preempted and len(s.tokens) >= self.capacity.tokens]

    def admit(self, now: float) -> list[Sequence]:
        """Give rows to waiting sequences, in the policy's order; return those admitted.

        Costs nothing while nobody can be admitted: the queue is put in order where there is a
        place, and the first in it are looked up once.
        """
        admitted: list[Sequence] = []
        if not self.waiting or (self._full and not self._has_place()):
            return admitted
        ahead = PREFETCHED
        # A preempted sequence may have a token in flight; it waits until that is read.
        free = [s for s in self.waiting if not s.launched and not s.held_back]
        for sequence in self._ordered(free, now):
            if not self._has_place():
                ahead -= 1
                self.cache.prepare(sequence, self.prefilling)
                if ahead <= 0:
                    break
                continue
            if not self.cache.prepare(sequence, self.prefilling):
                continue
            if not self._give_row(sequence):
                # Those who run will make room; when nobody does, what keeps it out is pinned.
                if not self.running:
                    self._unpin(sequence)
                break
            self.waiting.remove(sequence)
            sequence.phase = Phase.PREFILLING
            sequence.admitted_at = sequence.admitted_at or now
            self.prefilling.append(sequence)
            admitted.append(sequence)
        self._full = not self._has_place()
        return admitted

    def _unpin(self, first: Sequence) -> bool:
        """Let go of what others than ``first`` have pinned in the queue; return whether any had."""
        others = (s for s in self.waiting if s is not first)
        pinning = [s for s in others if s.restore is not None and s.restore.pins]
        for sequence in pinning:
            self.cache.forget(sequence)
        return bool(pinning)

    @property
    def has_prompts(self) -> bool:
        """Whether a prompt is left to run."""
        return any(s.remaining_prefill for s in self.prefilling)

    def prefill_budget(self) -> int:
        """Return how many tokens this iteration may run beside the decoding rows."""
        return max(self.policy.prefill_tokens(self._load()), 1)

    def chunks(self, now: float) -> list[list[tuple[Sequence, Chunk]]]:
        """Return this iteration's prefill passes, each a list of rows that run together."""
        todo = self._ordered([s for s in self.prefilling if s.remaining_prefill], now)
        if not todo:
            return []
        left = self.prefill_budget()
        passes: list[list[tuple[Sequence, Chunk]]] = []
        while todo and left > 0:
            together = self._together(todo, left)
            passes.append(together)
            todo = [s for s in todo if s not in [member for member, _ in together]]
            left -= len(together) * max(len(chunk.tokens) for _, chunk in together)
        return passes

    def prefilled(self) -> list[Sequence]:
        """Return sequences whose prefill has just ended; they are ready from now on."""
        done = [s for s in self.prefilling if not s.remaining_prefill]
        for sequence in done:
            self.prefilling.remove(sequence)
            sequence.phase = Phase.READY
            self.ready.append(sequence)
        return done

    def fork(self, lead: Sequence) -> list[Sequence]:
        """Give a lead's siblings copies of its row, as far as there is room; queue the rest."""
        forked = []
        assert lead.row is not None
        for sibling in lead.siblings:
            row = self.store.fork(lead.row) if len(self.running) < self.capacity.live else None
            if row is not None:
                sibling.row = row
                sibling.cached, sibling.admitted_at = dict(lead.cached), lead.admitted_at
                sibling.prompt_logprobs = lead.prompt_logprobs
                sibling.chain, sibling.kept = list(lead.chain), lead.kept
                sibling.phase = Phase.READY
                self.ready.append(sibling)
                forked.append(sibling)
            else:
                self.enqueue(sibling)
        lead.siblings = []
        return forked

    def promote(self, now: float) -> None:
        """Let ready sequences decode, as far as there are places; retire what needs no more."""
        for sequence in [s for s in self.decoding if s.to_launch <= 0]:
            self.decoding.remove(sequence)
            self._release(sequence)
            sequence.phase = Phase.DRAINING
            self.draining.append(sequence)
        places = self.capacity.decoding - len(self.decoding)
        contended = 0 < places < len(self.ready)
        chosen = self._ordered(self.ready, now) if contended else self.ready
        for sequence in list(chosen[: max(places, 0)]):
            self.ready.remove(sequence)
            assert sequence.row is not None
            self.store.join(sequence.row)
            sequence.phase = Phase.DECODING
            self.decoding.append(sequence)

    def make_room(self, width: int, now: float) -> list[Sequence]:
        """Make sure that every decoding row has room for ``width`` tokens more.

        What is pinned for those in the queue gives way before anybody who runs does.

        Returns:
            Sequences that can go no further: alone, and KV is full.
        """
        stuck = []
        for sequence in list(self.decoding):
            while sequence.phase is Phase.DECODING and not self._has_room(sequence, width):
                if not self._unpin(sequence) and not self._preempt_for(sequence, now):
                    stuck.append(sequence)
                    break
        return stuck

    def try_room(self, width: int) -> bool:
        """Make room for ``width`` tokens in every decoding row, if nobody has to give way."""
        return all(self._has_room(sequence, width) for sequence in self.decoding)

    def preempt(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take back a sequence's row; it goes on later from where it was."""
        for place in (self.prefilling, self.ready, self.decoding):
            if sequence in place:
                place.remove(sequence)
        self._release(sequence, keep=keep)
        sequence.preempted += 1
        sequence.kept = 0
        self.preemptions += 1
        self.enqueue(sequence)

    def blocks_used(self) -> int:
        """Return how many blocks sequences use; one that several share counts once."""
        return self.store.used()

    # -- the parts -------------------------------------------------------------------------

    def _ordered(self, sequences: Items[Sequence], now: float) -> Items[Sequence]:
        if len(sequences) <= 1:
            return sequences
        by_uid = {s.uid: s for s in sequences}
        ordered = self.policy.order([_shown(s) for s in sequences], now)
        return [by_uid[candidate.uid] for candidate in ordered]

    def _has_place(self) -> bool:
        before_decoding = len(self.prefilling) + len(self.ready)
        places = max(self.capacity.decoding - len(self.decoding), 0)
        return (
            len(self.running) < self.capacity.live
            and len(self.prefilling) < self.capacity.prefilling
            and before_decoding < places + self.capacity.prefilling
        )

    def _give_row(self, sequence: Sequence) -> bool:
        """Open a row with what is cached and room for the rest; return whether there is any."""
        tokens = len(sequence.tokens)
        held = sequence.restore.pinned if sequence.restore is not None else 0
        missing = -(-(tokens + 1) // self.capacity.block_size) - held
        if missing + self.store.used() > self.capacity.blocks:
            return False
        sequence.row = self.store.open()
        self.cache.fill(sequence)
        if self.store.room(sequence.row, tokens + 1, min(sequence.max_tokens, AHEAD)):
            return True
        self.store.close(sequence.row)
        sequence.row = None
        return False

    def _load(self) -> Load:
        return Load(
            decoding=len(self.decoding),
            prefilling=len(self.prefilling),
            waiting=len(self.waiting),
            chunk_alone=self.capacity.chunk_alone,
            chunk_shared=self._chunk_shared(),
        )

    def _chunk_shared(self) -> int:
        if self.capacity.chunk_shared is not None or not self.decoding:
            return self.capacity.chunk_shared or self.capacity.chunk_alone
        behind = len(self.prefilling) + len(self.waiting)
        tokens = self.pace.tokens(len(self.decoding), behind, self.capacity.chunk_alone)
        return self.agreement.least([tokens])[0]

    def _together(self, todo: Items[Sequence], left: int) -> list[tuple[Sequence, Chunk]]:
        lead = todo[0]
        cut = self.cache.cut(lead)
        width = min(lead.remaining_prefill, left, left if cut is None else cut - lead.held)
        chosen = [lead]
        for other in todo[1:]:
            if self.store.exclusive_prefill or (len(chosen) + 1) * width > left:
                break
            mine = other.remaining_prefill
            if width // 2 <= mine <= width:  # at most half of a padded row is padding
                chosen.append(other)
        return [(s, _chunk(s, width)) for s in chosen]

    def _has_room(self, sequence: Sequence, width: int) -> bool:
        row = sequence.row
        assert row is not None
        return self.store.room(row, row.length + width)

    def _preempt_for(self, sequence: Sequence, now: float) -> bool:
        others = [s for s in self.running if s is not sequence]
        by_uid = {s.uid: s for s in others}
        everybody = [s.candidate() for s in (*others, sequence)]
        victim = self.policy.victim(everybody, now)
        if victim is None or not others:
            return False
        self.preempt(by_uid.get(victim.uid, sequence))
        return True

    def _release(self, sequence: Sequence, *, keep: bool = True) -> None:
        if sequence.row is not None:
            if keep:
                self.cache.keep(sequence)
                self.cache.keep_state(sequence)
            self.store.close(sequence.row, keep=keep)
            sequence.row = None


def _shown(sequence: Sequence) -> Candidate:
    """Return what the policy sees: once for each in the queue of which nothing changes."""
    if sequence.phase is not Phase.WAITING or sequence.restore is not None:
        return sequence.candidate()
    if sequence.queued is None:
        sequence.queued = sequence.candidate()
    return sequence.queued


def _chunk(sequence: Sequence, width: int) -> Chunk:
    assert sequence.row is not None
    end = min(sequence.held + width, len(sequence.tokens) - 1)
    return Chunk(sequence.row, sequence.tokens[sequence.held : end])
