"""What the front knows of each model: its state, its process, what went wrong, what was counted."""

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import define, field

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.fleet.child import Child
from mlxserve_plugins.fleet.file import GB, ModelTable

State: TypeAlias = Literal["unloaded", "loading", "ready", "unloading", "failed"]
STATES: Final[tuple[State, ...]] = ("unloaded", "loading", "ready", "unloading", "failed")
MARGIN: Final = 1.25
"""What a measured process is taken to need, for each byte that it had at most."""

FIRST_BACK_OFF_S: Final = 1.0
LONGEST_BACK_OFF_S: Final = 60.0
STEADY_S: Final = 60.0
"""Seconds after which a server that ends by itself is taken to have been well."""


@define(eq=False)
class Model:
    """One model of the fleet. Event loop only.

    Attributes:
        name: What clients call it.
        table: What the file says of it.
        keep_alive: Seconds without a request after which it is unloaded; 0 is never.
        child: Its process, from the start to the end of that.
        opening: The task that loads it, from the first request that waits for it.
        waiting: Requests that wait for it.
        used_at: When it was last asked, or answered.
        measured: Bytes that its process had at most, in any of its lives.
        card: What its server told of it, for ``/v1/models``.
        error: Why it is not there, if something failed.
        loads: How often it was started.
        crashes: How often it ended by itself.
        unloads: How often it was unloaded.
        requests: How many went to it.
    """

    name: str
    table: ModelTable
    keep_alive: float = 0.0
    child: Child | None = None
    opening: "Any" = None
    waiting: int = 0
    used_at: float = 0.0
    measured: int = 0
    card: Mapping[str, Any] = field(factory=dict)
    error: str = ""
    loads: int = 0
    crashes: int = 0
    unloads: int = 0
    requests: int = 0
    _failures: int = 0
    _retry_at: float = 0.0
    _ready_at: float = 0.0

    @property
    def state(self) -> State:
        """How it is."""
        if self.table.url is not None:
            return "failed" if self.error else "ready"
        if self.child is not None and self.child.leaving:
            return "unloading"
        if self.child is not None and self.child.ready:
            return "ready"
        if self.child is not None or self.opening is not None:
            return "loading"
        return "failed" if self.error else "unloaded"

    @property
    def in_use(self) -> bool:
        """Whether a request is with it or waits for it."""
        return bool(self.waiting or (self.child and self.child.users))

    @property
    def idle(self) -> float:
        """Seconds for which it has been loaded and unused; 0 if it is not."""
        free = self.child is not None and self.child.ready and not self.in_use
        return time.monotonic() - self.used_at if free else 0.0

    @property
    def need(self) -> int | None:
        """Bytes that it takes when loaded; ``None`` until somebody says or has measured."""
        if self.table.memory_gb is not None:
            return max(round(self.table.memory_gb * GB), self.measured)
        return round(self.measured * MARGIN) or None

    def loaded(self) -> None:
        """Note that it is ready."""
        self.error = ""
        self._ready_at = self.used_at = time.monotonic()

    def failed(self, error: str) -> float:
        """Note that it could not be loaded, or ended; return the seconds until a next try."""
        now = time.monotonic()
        if self._ready_at and now - self._ready_at > STEADY_S:
            self._failures = 0
        self._ready_at = 0.0
        self.error = error
        wait = min(FIRST_BACK_OFF_S * 2.0**self._failures, LONGEST_BACK_OFF_S)
        self._failures += 1
        self._retry_at = now + wait
        return wait

    def refusal(self) -> RequestError | None:
        """Return why it is not to be loaded now, if it has just failed."""
        left = self._retry_at - time.monotonic()
        return self.unavailable(left) if self.error and left > 0 else None

    def unavailable(self, retry_after: float) -> RequestError:
        """Return the error of a request that it cannot answer."""
        message = f"the model {self.name!r} is not there: {self.error}"
        code = "model_unavailable"
        return RequestError(status=503, message=message, code=code, retry_after=retry_after)
