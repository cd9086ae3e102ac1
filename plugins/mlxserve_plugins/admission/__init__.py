"""Refuse requests that the server cannot take now, and say when to come back."""

import time
from collections.abc import Callable
from typing import Final

from attrs import define, field, frozen
from attrs.validators import and_, ge, gt, le

from mlxserve_hookspecs import (
    AppConfig,
    EngineStatus,
    Finish,
    GenerationRequest,
    RequestError,
    Services,
    hookimpl,
    option,
)
from mlxserve_plugins.admission.ledger import Entry, Ledger, Visit
from mlxserve_plugins.admission.limits import Limiter
from mlxserve_plugins.admission.memory import Memory, is_pressed, projected
from mlxserve_plugins.admission.pace import Pace
from mlxserve_plugins.admission.visits import current_visit, visiting
from mlxserve_plugins.guarding import setting

MOST: Final = 2**31 - 1
RESTART_S: Final = 30.0
"""Seconds that a server which shuts down needs to be there again, or another in its place."""

_count = and_(ge(0), le(MOST))


@frozen(kw_only=True)
class AdmissionOptions:
    """How much is let in; 0 is unlimited. A key's limits count all clients without one as one."""

    max_concurrent_requests: int = option(
        64,
        "requests at a time, waiting ones included; 0 is unlimited (else 429)",
        flag="--max-concurrent-requests",
        check=_count,
    )
    memory_pressure_threshold: float = option(
        0.9,
        "share of the KV blocks that requests may come to need (else 503)",
        flag="--memory-pressure-threshold",
        check=and_(gt(0.0), le(1.0)),
    )
    requests_per_minute: int = option(
        0, "requests a minute for each key; 0 is unlimited", flag="--requests-per-minute",
        check=_count,
    )  # fmt: skip
    tokens_per_minute: int = option(
        0, "prompt and reply tokens a minute for each key; 0 is unlimited",
        flag="--tokens-per-minute", check=_count,
    )  # fmt: skip
    concurrent_per_key: int = option(
        0, "requests at a time for each key; 0 is unlimited", flag="--concurrent-per-key",
        check=_count,
    )  # fmt: skip


@define(eq=False)
class Admission:
    """Counts what is in flight, projects what it will need, and learns how fast it goes.

    An HTTP request is judged once: what else of it follows (a completion of many prompts) gets in.
    """

    options: AdmissionOptions = field(factory=AdmissionOptions)
    clock: Callable[[], float] = time.monotonic
    ledger: Ledger = field(factory=Ledger)
    pace: Pace = field(factory=Pace)
    limiter: Limiter = field(init=False)
    memory: Memory = field(init=False)

    def __attrs_post_init__(self) -> None:
        wanted = self.options
        self.memory = Memory(threshold=wanted.memory_pressure_threshold)
        self.limiter = Limiter(
            most=wanted.max_concurrent_requests,
            most_per_key=wanted.concurrent_per_key,
            requests_per_minute=wanted.requests_per_minute,
            tokens_per_minute=wanted.tokens_per_minute,
        )

    @hookimpl
    def routes(self, services: Services) -> None:
        """Add none; learn how much memory and how many rows the engine has."""
        self.memory = Memory(
            block_size=int(setting(services, "engine", "block_size", self.memory.block_size)),
            rows=int(setting(services, "engine", "max_batch_size", self.memory.rows)),
            threshold=self.options.memory_pressure_threshold,
        )

    @hookimpl
    def configure_app(self, config: AppConfig) -> None:
        """Watch HTTP requests end: not every one that is let in reaches the engine."""
        config.middleware.append(visiting(self._left))

    @hookimpl
    def admit(self, request: GenerationRequest, status: EngineStatus) -> RequestError | None:
        """Refuse while the server drains, is full or is about to run out of KV."""
        visit = current_visit()
        if visit is not None and visit.admitted:
            return None
        if status.draining:
            return _refusal(503, "shutting_down", "the server is shutting down", RESTART_S)
        entries = self.ledger.entries()
        now = self.clock()
        wait = self._wait(entries, status, now)
        for tenant, tokens in self.ledger.take_refunds(now):
            self.limiter.give_back(tenant, tokens, now)
        return self.limiter.refusal(request, entries, wait=wait, now=now) or self._memory_refusal(
            request, status, entries, wait
        )

    @hookimpl
    def request_received(self, request: GenerationRequest) -> None:
        """Count a request that every plugin let in."""
        visit = current_visit() or Visit()
        now = self.clock()
        charge = self.limiter.charge(request, first=not visit.admitted, now=now)
        visit.admitted = True
        self.ledger.enter(Entry(request, visit, charge, now))

    @hookimpl
    def first_token(self, request: GenerationRequest) -> None:
        """Learn that a request has a row."""
        self.ledger.started(request.id)

    @hookimpl
    def request_finished(self, request: GenerationRequest, finish: Finish) -> None:
        """Learn what a reply took; forget the request with its last choice."""
        self.pace.learn(finish)
        self.ledger.finished(request.id, finish)

    def _left(self, visit: Visit) -> None:
        self.ledger.left(visit, self.clock())

    def _wait(self, entries: list[Entry], status: EngineStatus, now: float) -> float:
        # The status is as old as the last iteration; what came since is in the ledger.
        in_flight = max(status.running + status.waiting, len(entries))
        oldest = max((now - entry.since for entry in entries), default=0.0)
        return self.pace.seconds(in_flight, self.memory.rows, oldest)

    def _memory_refusal(
        self, request: GenerationRequest, status: EngineStatus, entries: list[Entry], wait: float
    ) -> RequestError | None:
        requests = [entry.request for entry in sorted(entries, key=lambda e: not e.started)]
        need = projected(requests, self.memory, self.pace.usual_reply)
        own = self.memory.blocks(request, self.pace.usual_reply)
        if not is_pressed(need, own, status, self.memory):
            return None
        message = "the KV cache is about to be full: come back, or ask for fewer tokens"
        return _refusal(503, "memory_pressure", message, wait)


def _refusal(status: int, code: str, message: str, retry_after: float) -> RequestError:
    return RequestError(status=status, message=message, code=code, retry_after=retry_after)
