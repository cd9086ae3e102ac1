"""The one way into the engine: messages from other threads, taken once per iteration."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from attrs import define, field, frozen

from mlxserve_hookspecs import GenerationRequest


@frozen
class Submit:
    """A request to run.

    Attributes:
        request: The request.
        arrived: Monotonic seconds.
        seed: What its random numbers follow from: its own seed, or a fresh one.
    """

    request: GenerationRequest
    arrived: float
    seed: int


@frozen
class Cancel:
    """A request that nobody waits for any more."""

    request_id: str


@frozen
class Drain:
    """End what is in flight by ``deadline`` (monotonic seconds), with an error if need be."""

    deadline: float


@frozen
class ClearCache:
    """Forget every cached block; ``done`` is set when it has happened."""

    done: threading.Event = field(factory=threading.Event, eq=False)
    dropped: dict[str, int] = field(factory=dict, eq=False)


Message: TypeAlias = Submit | Cancel | Drain | ClearCache


@frozen
class Turn:
    """What an iteration starts from: every decision that depends on time uses ``now``."""

    now: float
    messages: Sequence[Message] = ()


@define(eq=False)
class Inbox:
    """A queue of messages. ``put`` on any thread; ``take`` on the engine thread."""

    _messages: deque[Message] = field(factory=deque)
    _ready: threading.Condition = field(factory=threading.Condition)
    _closed: bool = False
    _woken: bool = False
    _taken_at: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the engine last came for messages; 0 while it waits here for one."""
        taken_at = self._taken_at
        return 0.0 if taken_at is None else time.monotonic() - taken_at

    def meet(self) -> None:
        """Wait until all ranks have come as far as this; there is one."""

    def put(self, message: Message) -> None:
        """Add a message and wake the engine."""
        with self._ready:
            self._messages.append(message)
            self._ready.notify()

    def wake(self) -> None:
        """Wake the engine: something that it waits for has come; any thread."""
        with self._ready:
            self._woken = True
            self._ready.notify()

    def close(self) -> None:
        """Let ``take`` return at once from now on."""
        with self._ready:
            self._closed = True
            self._ready.notify()

    @property
    def closed(self) -> bool:
        """Whether the engine is to stop."""
        return self._closed

    def __len__(self) -> int:
        return len(self._messages)

    def take(self, wait: float, *, idle: bool = True) -> Turn:  # noqa: ARG002 - ranks differ
        """Return all messages, waiting up to ``wait`` seconds for the first.

        Args:
            wait: Seconds.
            idle: Whether the engine has nothing to do, so that a turn without messages is none.
        """
        with self._ready:
            if wait > 0 and not (self._messages or self._closed or self._woken):
                self._taken_at = None
                self._ready.wait(wait)
            self._woken = False
            messages = tuple(self._messages)
            self._messages.clear()
        self._taken_at = time.monotonic()
        return Turn(self._taken_at, messages)
