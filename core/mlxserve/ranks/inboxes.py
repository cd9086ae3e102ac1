"""Inboxes of several ranks: rank 0 sends each turn on before it acts on it."""

import queue
import time
from collections.abc import Sequence

from attrs import define, field

from mlxserve.inbox import Inbox, Turn
from mlxserve.ranks.frames import decode, encode
from mlxserve.ranks.link import Link


@define(eq=False)
class LeaderInbox(Inbox):
    """Rank 0's: what it takes, every rank takes.

    While there is work each of its turns is one of theirs, also where it found no message: what
    they ask each other in an iteration follows from what they have been told until then. An idle
    engine that has no message sends nothing: the others sleep.
    """

    links: Sequence[Link] = ()

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
    """Another rank's: takes what rank 0 sends, turn by turn."""

    link: Link = field(kw_only=True)

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
