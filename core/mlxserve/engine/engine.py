"""The iteration loop. ``Engine.step`` is the whole of it."""

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import Any

import mlx.core as mx
import structlog
from attrs import define, evolve, field
from pluggy import PluginManager

from mlxserve.batch.decoder import Decoder, Launched, Read
from mlxserve.batch.prefill import Prefiller
from mlxserve.batch.sequence import Sequence, sequences_of
from mlxserve.batch.speculation import Speculator, Verifying, constrain
from mlxserve.engine.outputs import Ending, finish, leftover, progress, scored, take_token
from mlxserve.engine.problems import (
    as_request_error,
    overdue,
    shutting_down,
    too_long,
    unconstrained,
    unsound,
)
from mlxserve.engine.scheduler import Scheduler
from mlxserve.hooks import ask, tell
from mlxserve.inbox import Cancel, ClearCache, Drain, Inbox, Submit, Turn
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs import (
    Draft,
    EngineStatus,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Iteration,
    RequestError,
    TextCodec,
    Usage,
    generation,
    lifecycle,
    speculation,
)

log = structlog.get_logger("mlxserve.engine")
IDLE_WAIT = 0.5
LOAD_WAIT, RANKS_WAIT = 0.25, 0.005
"""Seconds to wait for cached blocks that are being loaded: their arrival wakes the loop, but that of
another rank's does not."""

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
    """

    plugins: PluginManager
    inbox: Inbox
    outbox: Outbox
    text: TextCodec
    scheduler: Scheduler
    prefiller: Prefiller
    decoder: Decoder
    speculator: Speculator
    agreement: Agreement = ALONE
    counters: dict[str, float] = field(factory=dict)
    steps: int = 0
    draining: float | None = None
    _uids: int = 0
    _events: list[GenerationEvent] = field(factory=list)
    _inflight: Launched | Verifying | None = None
    _prefilled: int = 0
    _decoded: int = 0
    _looked: float = 0.0
    _was_prefill: bool = False
    ready_traces: int = 0

    def step(self) -> bool:
        """Run one iteration; return whether there was anything to do."""
        turn = self.receive()
        began = time.monotonic()
        self._prefilled = self._decoded = 0
        if isinstance(self._inflight, Verifying):
            self._settle(turn.now)  # how far its rows grew decides what is scheduled
        self.expire(turn.now)
        self.schedule(turn.now)
        self.prefill()
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
        turn = self.inbox.take(self._patience())
        for message in turn.messages:
            match message:
                case Submit():
                    self._submit(message)
                case Cancel():
                    self._cancel(message.request_id, turn.now)
                case Drain():
                    self.draining = message.deadline
                case ClearCache():
                    message.dropped.update(self.scheduler.cache.clear())
                    message.done.set()
        return turn

    def _patience(self) -> float:
        """Return how long to wait for a message: not at all while there is anything to run."""
        if self.scheduler.idle:
            return IDLE_WAIT
        if self._inflight is not None or not self.scheduler.only_waits:
            return 0.0
        return LOAD_WAIT if self.agreement.alone else RANKS_WAIT

    def _submit(self, message: Submit) -> None:
        request = message.request
        if self.draining is not None:
            self._refuse(request, shutting_down())
            return
        if error := unsound(request, self.decoder.vocab):
            self._refuse(request, error)
            return
        room = self.scheduler.capacity.tokens - len(request.prompt)
        limit = min(request.stop.max_tokens, max(room, 0))
        uids = range(self._uids, self._uids + request.choices)
        self._uids += request.choices
        made = sequences_of(
            request,
            arrived=message.arrived,
            seed=message.seed,
            uids=uids,
            text=self.text,
            max_tokens=limit,
        )
        self.scheduler.enqueue(made[0])
        needed = len(request.prompt) + 1
        if needed > self.scheduler.capacity.tokens:
            for sequence in made:
                sequence.siblings = []
                self.fail(sequence, too_long(needed, self.scheduler.capacity.tokens))
            return
        if request.constraint is not None:
            for sequence in made:
                self._constrain(sequence)

    def _refuse(self, request: GenerationRequest, error: RequestError) -> None:
        usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=0)
        for choice in range(request.choices):
            end = Finish(reason="error", usage=usage, error=error)
            event = GenerationEvent(request_id=request.id, choice=choice, finish=end)
            self._events.append(event)
            self._tell_finished(request, choice, end)

    def _constrain(self, sequence: Sequence) -> None:
        try:
            made = ask(self.plugins, generation.make_constraint)(
                request=sequence.request, text=self.text, vocab_size=self.decoder.vocab
            )
        except Exception as error:
            self.fail(sequence, as_request_error(error))
            return
        if made is None:
            self.fail(sequence, unconstrained())
        sequence.constraint = made

    def _cancel(self, request_id: str, now: float) -> None:
        for sequence in [s for s in self.scheduler.all if s.request.id == request_id]:
            sequence.siblings = []
            self._end(sequence, Ending("cancelled"), now)

    # -- time --------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """End what has run out of time."""
        if self.scheduler.idle or now < self._looked + EXPIRY:
            return
        self._looked = now
        for sequence in self.scheduler.all:
            error = overdue(sequence, now)
            if error and sequence.generated:
                self._end(sequence, Ending("length"), now, leftover(sequence))
            elif error:
                self.fail(sequence, error, "timeout")
            elif self.draining is not None and now >= self.draining:
                self.fail(sequence, shutting_down())

    # -- schedule ----------------------------------------------------------------------------

    def schedule(self, now: float) -> None:
        """Admit sequences, let prefilled ones decode, make room for the next tokens."""
        for sequence in self.scheduler.impossible():
            self._end(sequence, Ending("length"), now)
        self.scheduler.admit(now)
        for lead in self.scheduler.prefilled():
            for sequence in (lead, *self.scheduler.fork(lead)):
                if sequence.max_tokens <= 0:
                    self._end(sequence, Ending("length"), now, scored(sequence))
        self.scheduler.promote()
        for sequence in self.scheduler.make_room(1, now):
            self._end(sequence, Ending("length"), now)

    # -- forward -----------------------------------------------------------------------------

    def prefill(self) -> None:
        """Run this iteration's prefill passes."""
        for together in self.scheduler.chunks():
            try:
                self._prefilled += self.prefiller.run(together)
            except Exception as error:
                log.exception("prefill failed", rows=len(together))
                self.agreement.survive(error)
                self.prefiller.reset()
                self._count("failed_steps", 1)
                self._lose([sequence for sequence, _ in together], error)
                continue
            for sequence, _ in together:
                self._after_chunk(sequence)

    def _after_chunk(self, sequence: Sequence) -> None:
        cache = self.scheduler.cache
        cache.keep(sequence)
        cache.keep_state(sequence, known=not sequence.remaining_prefill)
        if sequence.remaining_prefill:
            self._events.append(progress(sequence))

    def forward(self, now: float) -> None:
        """Start the next pass, read the one before it, draw."""
        planned = self.speculator.plan(self.scheduler.decoding)
        if planned and self._verify(planned, now):
            return
        try:
            begun = self.decoder.begin(self.scheduler.decoding)
            # Masks follow from tokens that are read while the device is at the next pass.
            if any(s.constraint is not None for s in self.scheduler.decoding):
                self._settle(now)
                self._constrained({}, now)
            launched = None if begun is None else self.decoder.draw(begun)
        except Exception as error:
            self._fail_batch(error)
            return
        self._launched(launched, now)

    def _verify(self, planned: Mapping[int, int], now: float) -> bool:
        """Verify drafts in place of a step; return whether there were any."""
        self._settle(now)
        began = time.monotonic()
        drafts = self.speculator.propose(self.scheduler.decoding, planned)
        width = self.speculator.width(drafts)
        if width == 1 or not self.scheduler.try_room(width):
            return False
        drafts = self._constrained(drafts, now)
        try:
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
                log.exception("constraint failed", request=sequence.request.id)
                drafts.pop(sequence.uid, None)
                self.fail(sequence, as_request_error(error), now=now)
        return drafts

    def _settle(self, now: float) -> None:
        step, self._inflight = self._inflight, None
        if step is None:
            return
        try:
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
                self.fail(sequence, as_request_error(error))
                return
            if sequence.generated == 1:
                seconds = now - sequence.arrived
                tell(self.plugins, lifecycle.first_token)(request=sequence.request, seconds=seconds)
            if ending is not None:
                self._end(sequence, ending, now, event)
                return
            self._events.append(event)

    def _judge(self, step: Verifying) -> None:
        verdicts, seconds = step.verdicts(), time.monotonic() - step.began
        for sequence in self.scheduler.decoding:
            self.scheduler.cache.keep(sequence)
        self.speculator.learn(verdicts, seconds)
        tell(self.plugins, speculation.drafts_verified)(verdicts=verdicts, seconds=seconds)

    # -- endings -----------------------------------------------------------------------------

    def fail(
        self,
        sequence: Sequence,
        error: RequestError,
        reason: Any = "error",
        now: float = 0.0,
        *,
        keep: bool = True,
    ) -> None:
        """End one sequence with an error; siblings that have not forked yet go on."""
        self.scheduler.orphan(sequence)
        self._end(sequence, Ending(reason), now or time.monotonic(), error=error, keep=keep)

    def _end(
        self,
        sequence: Sequence,
        ending: Ending,
        now: float,
        event: GenerationEvent | None = None,
        error: RequestError | None = None,
        *,
        keep: bool = True,
    ) -> None:
        if not sequence.alive:
            return
        self.scheduler.finish(sequence, keep=keep)
        self.speculator.forget((sequence.uid,))
        done = finish(sequence, ending, now, error)
        base = event or GenerationEvent(request_id=sequence.request.id, choice=sequence.choice)
        self._events.append(evolve(base, finish=done))
        self._count("prompt_tokens", done.usage.prompt_tokens if sequence.choice == 0 else 0)
        self._count("generation_tokens", done.usage.completion_tokens)
        self._count(f"finished_{ending.reason}", 1)
        self._tell_finished(sequence.request, sequence.choice, done)

    def _tell_finished(self, request: GenerationRequest, choice: int, done: Finish) -> None:
        tell(self.plugins, lifecycle.request_finished)(request=request, choice=choice, finish=done)

    def _fail_batch(self, error: Exception) -> None:
        """Fail everything that decodes: its tokens and KV cannot be trusted any more."""
        log.error("decode step failed", rows=len(self.scheduler.decoding), exc_info=error)
        self.agreement.survive(error)
        self._inflight = None
        self.decoder.reset()
        self._count("failed_steps", 1)
        self._lose([*self.scheduler.decoding, *self.scheduler.draining], error)

    def _lose(self, sequences: Items[Sequence], error: Exception) -> None:
        """Fail rows whose pass failed, and keep nothing of them; rebuild what is not sound.

        An evaluation that fails, out of memory say, leaves planes behind that raise again: then
        every row starts anew, and nothing in memory can be found any more.
        """
        for sequence in sequences:
            self.fail(sequence, as_request_error(error), keep=False)
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
            self.fail(sequence, error)
        events, self._events = self._events, []
        self.outbox(events)

    def _count(self, name: str, amount: float) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + amount

    # -- publish -----------------------------------------------------------------------------

    def publish(self, began: float) -> None:
        """Hand this iteration's events to the outbox and tell the plugins."""
        if self._events:
            events, self._events = self._events, []
            self.outbox(events)
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
        return EngineStatus(
            ready=True,
            draining=self.draining is not None,
            running=len(self.scheduler.running) + len(self.scheduler.draining),
            waiting=len(self.scheduler.waiting),
            used_blocks=self.scheduler.blocks_used(),
            cached_blocks=self.scheduler.cache.held,
            total_blocks=self.scheduler.capacity.blocks,
            steps=self.steps,
            counters=dict(self.counters)
            | {
                "preemptions": float(self.scheduler.preemptions),
                "draft_errors": float(self.speculator.errors),
                "traces": float(self.traces - self.ready_traces),
            },
        )
