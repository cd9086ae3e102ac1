"""The engine's thread: started, fed, watched and stopped from outside."""

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING

import structlog
from attrs import define, evolve, field

from mlxserve.engine.client import Client
from mlxserve.engine.refusals import SHUTTING_DOWN, STOPPED
from mlxserve.hooks import tell
from mlxserve.inbox import ClearCache, Drain, Inbox
from mlxserve.model.finding import find
from mlxserve.ranks.inboxes import LeaderInbox
from mlxserve.ranks.link import Links
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import EngineClient, EngineStatus, Progress, RequestError, lifecycle

if TYPE_CHECKING:
    from mlxserve.engine.engine import Engine

log = structlog.get_logger("mlxserve.engine")
LOADING = EngineStatus(ready=False)
FLUSH_TIMEOUT = 10.0
"""Seconds for cache tiers to write out what they have pending at the end."""

FATAL_GRACE = 3.0
"""Seconds in which clients and probes are told that a rank is gone, before the process ends."""


def silent(what: str, done: int, total: int | None) -> None:
    """Show no progress."""
    del what, done, total


@define(eq=False)
class EngineService:
    """Owns the one thread that runs MLX.

    Attributes:
        resolved: The run's settings.
        progress: Told how loading goes.
        links: To the other ranks, if this is rank 0 of several.
        loaded: Set when the model is loaded and warm, or loading failed.
        failure: Why it failed, or what ended the loop later.
    """

    resolved: Resolved
    progress: Progress = silent
    links: Links | None = None
    loaded: threading.Event = field(factory=threading.Event)
    failure: BaseException | None = None
    _inbox: Inbox = field(init=False)
    _fatal: str | None = None
    _client: Client = field(init=False)
    _thread: threading.Thread = field(init=False)
    _status: EngineStatus = LOADING
    _cache_stats: dict[str, dict[str, float]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        options = self.resolved.engine
        self._inbox = Inbox() if self.links is None else LeaderInbox(links=self.links.links)
        self._client = Client(
            inbox=self._inbox,
            max_waiting=options.max_queue_size,
            max_running=min(options.completion_batch_size, options.max_batch_size),
            get_status=self.status,
            tell_refused=self._tell_refused,
        )
        self._thread = threading.Thread(target=self._run, name="mlxserve-engine", daemon=True)

    @property
    def client(self) -> EngineClient:
        """The engine as API surfaces see it."""
        return self._client

    def start(self) -> None:
        """Start the thread: it loads the model, warms up and serves."""
        if self.links is not None:
            self.links.fatal = self._ranks_failed
            self.links.age = self._age
            self.links.watch()
        self._thread.start()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop on which requests are served."""
        self._client.attach(loop)

    def status(self) -> EngineStatus:
        """Return the engine as it was after its last iteration; any thread."""
        # A loop that turns and gets nobody on is as stuck as one that does not turn.
        stuck = self._status.last_step_age if self._status.running or self._status.waiting else 0.0
        status = evolve(self._status, last_step_age=max(stuck, self._age()))
        if self._fatal is None:
            return status
        counters = {**status.counters, "dist_fatal": 1.0}
        return evolve(status, ready=False, error=self._fatal, counters=counters)

    def _age(self) -> float:
        return self._inbox.age if self._client.loaded else 0.0

    def _tell_refused(self, status: int, code: str) -> None:
        tell(self.resolved.plugins, lifecycle.request_refused)(status=status, code=code, field="")

    def _ranks_failed(self, reason: str) -> None:
        """End everything: this engine may hang in a collective, and nobody can help it out."""
        log.error("the ranks cannot go on", reason=reason)
        if not self._client.loaded:
            os._exit(1)  # nobody was served yet, and nobody is to be told
        self._fatal = reason
        self._client.abort(RequestError(status=503, message=reason, code="dist_fatal"))
        time.sleep(FATAL_GRACE)
        os._exit(1)

    def drain(self, timeout: float) -> bool:
        """Stop admission and wait for what is in flight; return whether all of it finished.

        What is left after ``timeout`` seconds ends with an error event. Blocks; any thread but
        the engine's.
        """
        self._client.closed = SHUTTING_DOWN
        deadline = time.monotonic() + timeout
        self._inbox.put(Drain(deadline))
        while self._thread.is_alive() and not self._quiet():
            if time.monotonic() > deadline + 5.0:
                return False  # a step hangs: nobody can end what is in it
            time.sleep(0.02)
        return time.monotonic() < deadline

    def stop(self) -> None:
        """End the loop and wait for the thread, for a few seconds."""
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(FLUSH_TIMEOUT + 5.0)

    def clear_cache(self) -> dict[str, int]:
        """Forget cached blocks in every tier; return how many, by tier. Blocks for an iteration."""
        message = ClearCache()
        self._inbox.put(message)
        message.done.wait(30.0)
        return dict(message.dropped)

    def cache_stats(self) -> dict[str, dict[str, float]]:
        """Return each tier's figures, as of the last iteration that did something."""
        return self._cache_stats

    def _quiet(self) -> bool:
        # Draining shows only after every message before it was taken: none is overlooked.
        status = self._status
        return status.draining and status.running == 0 and status.waiting == 0

    def _run(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # the thread ends; whoever started it is told
            self.failure = error
            self._status = EngineStatus(ready=False, error=str(error))
            self.loaded.set()
            return
        self.loaded.set()
        try:
            while not self._inbox.closed:
                engine.step()
                self._status = engine.status()
                self._cache_stats = engine.scheduler.cache.stats()
            if isinstance(self._inbox, LeaderInbox) and self.links is not None:
                self.links.close()
                self._inbox.say_goodbye()
            engine.abandon(SHUTTING_DOWN)
            engine.scheduler.cache.close(FLUSH_TIMEOUT)
        except BaseException as error:
            log.exception("the engine stopped")
            if self.links is not None:
                self._ranks_failed(f"{type(error).__name__}: {error}")
            self.failure = error
            self._client.closed = STOPPED
            self._status = EngineStatus(ready=False, error="the engine stopped")
            engine.abandon(STOPPED)

    def _load(self) -> "Engine":
        began, resolved = time.monotonic(), self.resolved
        source = find(resolved.plugins, resolved.model.model, self.progress)
        # Imports mlx: on this thread, after `preparing`.
        from mlxserve.engine.build import build  # noqa: PLC0415
        from mlxserve.engine.warming import warm_up  # noqa: PLC0415

        built = build(resolved, source, self.progress, self._inbox, self._client.deliver)
        made = time.monotonic()
        warm_up(built.engine, self._inbox)
        if self.links is not None:
            self.links.loaded = True  # warming up took all ranks
        for line in built.loaded.card.layout:
            log.info("plan", detail=line)
        spent = {**built.spent, "warm": time.monotonic() - made, "all": time.monotonic() - began}
        log.info("loaded", **{f"{k}_s": round(v, 1) for k, v in spent.items()})
        self._status = built.engine.status()
        self._client.loaded = built.loaded
        loaded = built.loaded
        tell(self.resolved.plugins, lifecycle.started)(card=loaded.card, text=loaded.text)
        return built.engine
