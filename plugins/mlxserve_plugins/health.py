"""Tell load balancers and supervisors how the server is: ``/health``, ``/livez``, ``/readyz``."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import define, field, frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import EngineStatus, Iteration, Route, Services, hookimpl, option
from mlxserve_plugins.guarding import setting

State: TypeAlias = Literal["ok", "degraded", "overloaded", "shutting_down"]
Answer: TypeAlias = tuple[int, dict[str, Any]]

THRESHOLD: Final = 0.9
"""Utilization at which the server is overloaded, where no plugin has a threshold of its own."""

DEGRADED: Final = 0.72
"""Share of the threshold from which on the server is degraded."""

FAILURES: Final = 3
"""Steps that may fail in a row."""

RECOVERY_S: Final = 30.0
"""Seconds after which traffic is let in again, to see whether steps still fail."""

OK: Final = 200
UNAVAILABLE: Final = 503
HEADERS: Final = {"Cache-Control": "no-store"}

_seconds = and_(ge(0.0), le(365 * 24 * 3600.0))


@frozen(kw_only=True)
class HealthOptions:
    """When a step that does not end is a reason to worry."""

    watchdog_timeout_s: float = option(
        60.0,
        "seconds of one step after which /readyz fails; 0 is never",
        flag="--watchdog-timeout-s",
        check=_seconds,
    )
    liveness_timeout_s: float = option(
        600.0,
        "seconds of one step after which /livez fails, for a supervisor to restart; 0 is never",
        flag="--liveness-timeout-s",
        check=_seconds,
    )


@define
class Failures:
    """Counts steps that failed since one went well. Written on the engine thread and the loop."""

    _well: float = 0.0
    _seen: float = 0.0
    _seen_at: float = 0.0

    def heard(self, iteration: Iteration) -> None:
        """Start anew when an iteration brought tokens."""
        if iteration.decoded:
            self._well = failed_steps(iteration.status)

    def in_a_row(self, status: EngineStatus, now: float) -> int:
        """Return how many steps failed in a row; 0 when that is a while ago."""
        failed = failed_steps(status)
        if failed != self._seen:
            self._seen, self._seen_at = failed, now
        return int(failed - self._well) if now - self._seen_at < RECOVERY_S else 0


@define(eq=False)
class Health:
    """Answers probes from the engine's last published status: without a key, a lock or a wait."""

    options: HealthOptions = field(factory=HealthOptions)
    clock: Callable[[], float] = time.monotonic
    failures: Failures = field(factory=Failures)
    stopping_now: bool = False

    @hookimpl
    def stopping(self) -> None:
        """Say so from now on."""
        self.stopping_now = True

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        """Learn that steps go well."""
        self.failures.heard(iteration)

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with the three probes."""
        threshold = float(setting(services, "admission", "memory_pressure_threshold", THRESHOLD))
        return [
            _probe(
                "/health",
                "Say how loaded the server is.",
                lambda: self.health(services.engine.status, threshold),
            ),
            _probe(
                "/livez",
                "Say whether the process is worth keeping.",
                lambda: self.livez(services.engine.status),
            ),
            _probe(
                "/readyz",
                "Say whether requests are to be sent here.",
                lambda: self.readyz(services.engine.status),
            ),
        ]

    def health(self, status: EngineStatus, threshold: float) -> Answer:
        """Return the load: one of the four states, and what it follows from."""
        reasons = self.reasons(status)
        state = state_of(utilization(status), threshold, serving=not reasons)
        if self.stopping_now or status.draining:
            state = "shutting_down"
        body = {
            "status": state,
            "reasons": reasons,
            "utilization": round(utilization(status), 4),
            "threshold": threshold,
            "running": status.running,
            "waiting": status.waiting,
            "used_blocks": status.used_blocks,
            "total_blocks": status.total_blocks,
        }
        return OK if state in ("ok", "degraded") else UNAVAILABLE, body

    def livez(self, status: EngineStatus) -> Answer:
        """Return whether the process is worth keeping: only a restart mends what is not."""
        reasons = [status.error] if status.error else []
        if is_stuck(status, self.options.liveness_timeout_s):
            reasons.append(_stuck(status))
        return _answer("alive", "dead", reasons)

    def readyz(self, status: EngineStatus) -> Answer:
        """Return whether requests are to be sent here."""
        return _answer("ready", "not_ready", self.reasons(status))

    def reasons(self, status: EngineStatus) -> list[str]:
        """Return why requests had better go elsewhere; nothing when they need not."""
        failed = self.failures.in_a_row(status, self.clock())
        found = {
            "the server is shutting down": self.stopping_now or status.draining,
            status.error or "": bool(status.error),
            "the model is still loading": not (status.ready or status.error),
            f"{failed} steps failed in a row": failed >= FAILURES,
            _stuck(status): is_stuck(status, self.options.watchdog_timeout_s),
        }
        return [reason for reason, holds in found.items() if holds]


def utilization(status: EngineStatus) -> float:
    """Return the share of blocks in use; what only the cache holds is free for the asking."""
    return status.used_blocks / status.total_blocks if status.total_blocks else 0.0


def state_of(used: float, threshold: float, *, serving: bool) -> State:
    """Return the state at a utilization of ``used``; who cannot serve is overloaded by anything."""
    if not serving or used >= threshold:
        return "overloaded"
    return "degraded" if used >= DEGRADED * threshold else "ok"


def is_stuck(status: EngineStatus, limit: float) -> bool:
    """Return whether the step that runs takes longer than ``limit`` seconds; 0 is no limit."""
    return 0.0 < limit < status.last_step_age


def failed_steps(status: EngineStatus) -> float:
    """Return how many steps have failed so far."""
    counters: Mapping[str, float] = status.counters
    return counters.get("failed_steps", 0.0)


def _stuck(status: EngineStatus) -> str:
    return f"one step has been running for {status.last_step_age:.0f} s"


def _answer(good: str, bad: str, reasons: list[str]) -> Answer:
    body = {"status": bad if reasons else good, "reasons": reasons}
    return UNAVAILABLE if reasons else OK, body


def _probe(path: str, about: str, answer: Callable[[], Answer]) -> Route:
    from litestar import Response, get  # noqa: PLC0415 - heavy

    @get(path, tags=["Health"], operation_id=path.strip("/"), description=about)
    async def probe() -> Response[dict[str, Any]]:
        status, body = answer()
        return Response(body, status_code=status, headers=HEADERS)

    return probe
