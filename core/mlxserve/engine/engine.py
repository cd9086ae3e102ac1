"""The iteration loop. ``Engine.step`` is the whole of it."""

import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items

import mlx.core as mx
import structlog
from attrs import define, field
from pluggy import PluginManager

from mlxserve.batch.decoder import Decoder, Launched, Read
from mlxserve.batch.embedder import Embedder
from mlxserve.batch.prefill import Prefiller
from mlxserve.batch.sequence import Sequence
from mlxserve.batch.speculation import Speculator, Verifying, constrain
from mlxserve.engine.ahead import traced_one
from mlxserve.engine.intake import Intake
from mlxserve.engine.outputs import Ending, leftover, progress, scored, take_token
from mlxserve.engine.pace import Stopwatch
from mlxserve.engine.pooler import Pooler
from mlxserve.engine.problems import as_request_error, overdue, shutting_down
from mlxserve.engine.replies import Replies
from mlxserve.engine.scheduler import Scheduler
from mlxserve.engine.shaping import Shaping
from mlxserve.hooks import tell
from mlxserve.inbox import Inbox, Turn
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import (
    Draft,
    EngineStatus,
    GenerationEvent,
    Iteration,
    RequestError,
    TextCodec,
    lifecycle,
    speculation,
)

log = structlog.get_logger("mlxserve.engine")
IDLE_WAIT = 0.5
LOAD_WAIT, RANKS_WAIT = 0.25, 0.005
"""Seconds to wait for cached blocks that are being loaded: their arrival wakes the loop, but that
of another rank's does not."""

EXPIRY = 0.05
"""Seconds between two looks at who has run out of time."""
Outbox = Callable[[Items[GenerationEvent]], None]


@define(eq=False)
class Engine:
    """Runs every live sequence forward, one iteration after the other, on one thread.

    Attributes:
        plugins: Whose hooks are called.
        inbox: What other threads ask for.
        outbox: Told the events of each iteration, on this thread; must not wait.
        text: The tokenizer.
        scheduler: Who runs.
        prefiller: Runs prompts.
        decoder: Runs decode steps.
        speculator: Runs verification passes instead, where drafts are worth it.
        embedder: Runs texts of which vectors are wanted.
        agreement: What ranks decide alike.
        counters: Running totals by name.
        replies: What clients are told.
        intake: Takes messages in.
        pooler: Serves those who want vectors.
        steps: Iterations that ran anything.
        ready_traces: Passes that were traced while nobody waited.
        spare: Traces one more class of passes at each ``next``, when there is nothing else to do.
        passes: How much of the last iteration went to the model: building passes, waiting for them.
    """

    plugins: PluginManager
    inbox: Inbox
    outbox: Outbox
    text: TextCodec
    scheduler: Scheduler
    prefiller: Prefiller
    decoder: Decoder
    speculator: Speculator
    embedder: Embedder
    agreement: Agreement = ALONE
    counters: dict[str, float] = field(factory=dict)
    replies: Replies = field(init=False)
    intake: Intake = field(init=False)
    pooler: Pooler = field(init=False)
    steps: int = 0
    _inflight: Launched | Verifying | None = None
    _prefilled: int = 0
    _decoded: int = 0
    _looked: float = 0.0
    _was_prefill: bool = False
    ready_traces: int = 0
    spare: Iterator[None] | None = None
    passes: Stopwatch = field(factory=Stopwatch)
    _got_on: float = field(factory=time.monotonic)

    def __attrs_post_init__(self) -> None:
        scheduler, vocab = self.scheduler, self.decoder.vocab
        self.replies = Replies(self.plugins, scheduler, self.speculator, self.counters)
        self.pooler = Pooler(scheduler, self.embedder, self.replies)
        shaping = Shaping(self.plugins, self.text, vocab, self.inbox.wake, self.agreement)
        self.intake = Intake(shaping, scheduler, self.replies, self.embedder.refusal)

    def step(self) -> bool:
        """Run one iteration; return whether there was anything to do."""
        turn = self.receive()
        began = time.monotonic()
        self._prefilled = self._decoded = 0
        self.passes.seconds = 0.0
        if isinstance(self._inflight, Verifying):
            self._settle(turn.now)  # how far its rows grew decides what is scheduled
        self.expire(turn.now)
        self.schedule(turn.now)
        self.prefill(turn.now)
        self.forward(turn.now)
        self._pace(time.monotonic() - began)
        self.publish(began)
        return not self.scheduler.idle

    def _pace(self, seconds: float) -> None:
        """Learn how long an iteration of one kind took."""
        if self._decoded and not self._prefilled:
            self.scheduler.pace.stepped(seconds)
        elif self._prefilled and not self._decoded and self._was_prefill:
            # The pass before this one was waited for: in a row of them, one lasts as long.
            self.scheduler.pace.measured(self._prefilled, seconds)
        self._was_prefill = bool(self._prefilled) and not self._decoded

    # -- receive -----------------------------------------------------------------------------

    def receive(self) -> Turn:
        """Take messages; wait for one when there is nothing else to do."""
        turn = self.inbox.take(self._patience(), idle=self.scheduler.idle)
        for message in turn.messages:
            self.intake.receive(message, turn.now)
        if self.spare is not None and not turn.messages and self.scheduler.idle:
            before = self.traces
            self.spare = traced_one(self.spare)
            self.ready_traces += self.traces - before
        return turn

    def _patience(self) -> float:
        """Return how long to wait for a message: not at all while there is anything to run."""
        if self.scheduler.idle:
            return IDLE_WAIT if self.spare is None else 0.0
        if self._inflight is not None or not self.scheduler.only_waits:
            return 0.0
        return LOAD_WAIT if self.agreement.alone else RANKS_WAIT

    # -- time --------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End what has run out of time."""
        if self.scheduler.idle or now < self._looked + EXPIRY:
            return
        self._looked = now
        for sequence in self.scheduler.all:
            if (error := overdue(sequence, now)) and sequence.generated:
                self.replies.end(sequence, Ending("length"), now, leftover(sequence))
            elif error:
                self.replies.fail(sequence, error, "timeout")
            elif self.intake.draining is not None and now >= self.intake.draining:
                self.replies.fail(sequence, shutting_down())

    # -- schedule ----------------------------------------------------------------------------

    def schedule(self, now: float) -> None:
        """Admit sequences, let prefilled ones decode, make room for the next tokens."""
        for sequence in self.scheduler.impossible():
            self.replies.end(sequence, Ending("length"), now)
        for sequence, error in self.intake.shaping.take():
            self.replies.fail(sequence, error, now=now)
        self.scheduler.admit(now)
        for lead in self.scheduler.prefilled():
            twins = self.scheduler.fork(lead)
            self.speculator.fork(lead, twins)
            for sequence in (lead, *twins):
                if sequence.max_tokens <= 0:
                    self.replies.end(sequence, Ending("length"), now, scored(sequence))
        self.scheduler.promote(now)
        for sequence in self.scheduler.make_room(1, now):
            self.replies.end(sequence, Ending("length"), now)

    # -- forward -----------------------------------------------------------------------------

    def prefill(self, now: float) -> None:
        """Run this iteration's prefill passes, or one over texts of which vectors are wanted."""
        if self.pooler.takes_turn():
            with self.passes:
                self._prefilled += self.pooler.run()
            return
        for together in self.scheduler.chunks(now):
            try:
                with self.passes:
                    self._prefilled += self.prefiller.run(together)
            except Exception as error:
                log.exception("prefill failed", rows=len(together))
                self.agreement.survive(error)
                self.prefiller.reset()
                self.replies.count("failed_steps", 1)
                self._lose([sequence for sequence, _ in together], error)
                continue
            for sequence, _ in together:
                self._after_chunk(sequence)

    def _after_chunk(self, sequence: Sequence) -> None:
        cache = self.scheduler.cache
        cache.keep(sequence)
        cache.keep_state(sequence, known=not sequence.remaining_prefill)
        if sequence.remaining_prefill:
            self.replies.add(progress(sequence))

    def forward(self, now: float) -> None:
        """Start the next pass, read the one before it, draw."""
        planned = self.speculator.plan(self.scheduler.decoding)
        if planned and self._verify(planned, now):
            return
        try:
            with self.passes:
                begun = self.decoder.begin(self.scheduler.decoding)
            # Masks follow from tokens that are read while the device is at the next pass.
            if any(s.constraint is not None for s in self.scheduler.decoding):
                self._settle(now)
                self._constrained({}, now)
            with self.passes:
                launched = None if begun is None else self.decoder.draw(begun)
        except Exception as error:
            self._fail_batch(error)
            return
        self._launched(launched, now)

    def _verify(self, planned: Mapping[int, int], now: float) -> bool:
        """Verify drafts in place of a step; return whether there were any."""
        self._settle(now)
        began = time.monotonic()
        with self.passes:  # a proposer may run a model of its own
            drafts = self.speculator.propose(self.scheduler.decoding, planned)
        width = self.speculator.width(drafts)
        if width == 1 or not self.scheduler.try_room(width):
            return False
        drafts = self._constrained(drafts, now)
        try:
            with self.passes:
                launched = self.speculator.launch(self.scheduler.decoding, drafts, began, width)
            self.decoder.reset()  # penalties count what it does not know of
        except Exception as error:
            self._fail_batch(error)
            return True
        self._launched(launched, now)
        return True

    def _launched(self, launched: Launched | Verifying | None, now: float) -> None:
        for sequence in self.scheduler.decoding:
            self.scheduler.cache.keep(sequence)
        self._settle(now)
        self._inflight = launched
        self.scheduler.cache.tick()

    def _constrained(self, drafts: dict[int, Draft], now: float) -> dict[int, Draft]:
        """Make the masks of constrained rows, and cut their drafts to them."""
        for sequence in [s for s in self.scheduler.decoding if s.constraint is not None]:
            try:
                drafts[sequence.uid] = constrain(sequence, drafts.get(sequence.uid, Draft()))
            except Exception as error:
                drafts.pop(sequence.uid, None)
                self.replies.fail(sequence, as_request_error(error), now=now)
        return drafts

    def _settle(self, now: float) -> None:
        step, self._inflight = self._inflight, None
        if step is None:
            return
        try:
            with self.passes:
                read = step.read()
        except Exception as error:
            self._fail_batch(error)
            return
        now = max(now, time.monotonic())
        self.agreement.check([token for one in read for token in one.tokens])
        for one in read:
            one.sequence.launched -= 1
            if one.sequence.alive:
                self._take(one, now)
        if isinstance(step, Verifying):
            self._judge(step)
        else:
            self.decoder.was_read(step)

    def _take(self, read: Read, now: float) -> None:
        sequence = read.sequence
        accepted = len(read.tokens) - 1
        sequence.rejected_drafts += read.drafted - accepted
        for at, (token, logprob) in enumerate(zip(read.tokens, read.logprobs, strict=True)):
            self._decoded += 1
            sequence.accepted_drafts += at < accepted  # what comes after an ending is of no use
            try:
                event, ending = take_token(sequence, token, logprob, now)
            except Exception as error:
                log.exception("reading a token failed", request=sequence.request.id)
                self.replies.fail(sequence, as_request_error(error))
                return
            if sequence.generated == 1:
                seconds = now - sequence.arrived
                tell(self.plugins, lifecycle.first_token)(request=sequence.request, seconds=seconds)
            if ending is not None:
                self.replies.end(sequence, ending, now, event)
                return
            self.replies.add(event)

    def _judge(self, step: Verifying) -> None:
        verdicts, seconds = step.verdicts(), time.monotonic() - step.began
        for sequence in self.scheduler.decoding:
            self.scheduler.cache.keep(sequence)
        self.speculator.learn(verdicts, seconds)
        tell(self.plugins, speculation.drafts_verified)(verdicts=verdicts, seconds=seconds)

    # -- failures ----------------------------------------------------------------------------

    def _fail_batch(self, error: Exception) -> None:
        """Fail everything that decodes: its tokens and KV cannot be trusted any more."""
        log.error("decode step failed", rows=len(self.scheduler.decoding), exc_info=error)
        self.agreement.survive(error)
        self._inflight = None
        self.decoder.reset()
        self.replies.count("failed_steps", 1)
        self._lose([*self.scheduler.decoding, *self.scheduler.draining], error)

    def _lose(self, sequences: Items[Sequence], error: Exception) -> None:
        """Fail rows whose pass failed, and keep nothing of them; rebuild what is not sound.

        An evaluation that fails, out of memory say, leaves planes behind that raise again: then
        every row starts anew, and nothing in memory can be found any more.
        """
        for sequence in sequences:
            self.replies.fail(sequence, as_request_error(error), keep=False)
        try:
            mx.eval(self.scheduler.store.pending([]))
        except Exception:
            log.exception("planes are made anew")
            for sequence in self.scheduler.running:
                self.scheduler.preempt(sequence, keep=False)
            for sequence in self.scheduler.waiting:
                self.scheduler.cache.forget(sequence)
            self.scheduler.cache.discard()

    def abandon(self, error: RequestError) -> None:
        """Fail everything: the loop cannot go on."""
        for sequence in self.scheduler.all:
            self.replies.fail(sequence, error)
        self.outbox(self.replies.take())
        self.intake.shaping.close()

    # -- publish -----------------------------------------------------------------------------

    def publish(self, began: float) -> None:
        """Hand this iteration's events to the outbox and tell the plugins."""
        events = self.replies.take()
        if events:
            self.outbox(events)
        if events or self._prefilled or self._decoded or self.scheduler.idle:
            self._got_on = time.monotonic()
        if self._prefilled or self._decoded:
            self.steps += 1
            iteration = Iteration(
                seconds=time.monotonic() - began,
                prefilled=self._prefilled,
                decoded=self._decoded,
                status=self.status(),
            )
            tell(self.plugins, lifecycle.iteration_finished)(iteration=iteration)

    @property
    def traces(self) -> int:
        """How many passes were traced so far."""
        return self.scheduler.store.traces

    def status(self) -> EngineStatus:
        """Return the engine as it is; on the engine thread."""
        begun = sum(s.admitted_at is not None for s in self.scheduler.pooling)
        return EngineStatus(
            ready=True,
            draining=self.intake.draining is not None,
            running=len(self.scheduler.running) + len(self.scheduler.draining) + begun,
            waiting=len(self.scheduler.waiting) + len(self.scheduler.pooling) - begun,
            used_blocks=self.scheduler.blocks_used(),
            cached_blocks=self.scheduler.cache.held,
            total_blocks=self.scheduler.capacity.blocks,
            last_step_age=time.monotonic() - self._got_on,
            steps=self.steps,
            counters=dict(self.counters)
            | {
                "preemptions": float(self.scheduler.preemptions),
                "traces": float(self.traces - self.ready_traces),
            },
        )
