"""Inboxes of several ranks: rank 0 sends each turn on before it acts on it."""

import queue
import time
from collections.abc import Sequence

from attrs import define, field

from mlxserve.inbox import Inbox, Turn
from mlxserve.ranks.frames import HERE, decode, encode
from mlxserve.ranks.link import Link

OTHERS_FIRST = 0.1
"""Seconds within which the other ranks listen, once all have met."""


@define(eq=False)
class LeaderInbox(Inbox):
    """Rank 0's: what it takes, every rank takes.

    While there is work each of its turns is one of theirs, also where it found no message: what
    they ask each other in an iteration follows from what they have been told until then. An idle
    engine that has no message sends nothing: the others sleep.
    """

    links: Sequence[Link] = ()

    def meet(self) -> None:
        """Wait for every other rank, then let them go on."""
        for link in self.links:
            link.expect()
        for link in self.links:
            link.send(HERE)

    def take(self, wait: float, *, idle: bool = True) -> Turn:
        """Return the messages, having sent them on."""
        turn = super().take(wait, idle=idle)
        if turn.messages or not idle:
            frame = encode(turn)
            for link in self.links:
                link.send(frame)
        return turn

    def say_goodbye(self) -> None:
        """Tell the others that this was all."""
        frame = encode(Turn(0.0), stop=True)
        for link in self.links:
            link.send(frame)


@define(eq=False)
class FollowerInbox(Inbox):
    """Another rank's: takes what rank 0 sends, turn by turn.

    Attributes:
        link: To rank 0.
        last: Whether this is the last rank.
    """

    link: Link = field(kw_only=True)
    last: bool = field(default=False, kw_only=True)

    def meet(self) -> None:
        """Wait until rank 0 says that all have come; the last one lets the others go first.

        mlx's ranks connect each to the next: the last one begins, while the others listen. Whoever
        finds nobody listening tries again after 1, 2, 4, 8 and 16 seconds, and then no more.
        """
        self.link.send(HERE)
        self.link.expect()
        if self.last:
            time.sleep(OTHERS_FIRST)

    def take(self, wait: float, *, idle: bool = True) -> Turn:
        """Return rank 0's next turn; only an idle engine goes on without one, after ``wait``."""
        self._taken_at = None  # whoever waits for rank 0 is not stuck
        try:
            body = self.link.frames.get(timeout=(wait or None) if idle else None)
        except queue.Empty:
            return Turn(0.0)
        self._taken_at = time.monotonic()
        turn, stop = decode(body)
        if stop:
            self.close()
        return turn
