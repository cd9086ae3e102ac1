"""The control links between rank 0 and the others: turns one way, heartbeats both ways."""

import hmac
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Final

import structlog
from attrs import define, field

from mlxserve.ranks.frames import HEARTBEAT, LinkBrokenError, receive
from mlxserve_hookspecs import Rank

log = structlog.get_logger("mlxserve.ranks")
BEAT: Final = 1.0
"""Seconds between heartbeats."""

LOADING: Final = 60.0
"""Seconds of silence that are nothing before every rank has loaded: an import, or joining a group
whose others are late, keeps a process from beating."""

Fatal = Callable[[str], None]
"""Told, once and on some thread, why the ranks cannot go on."""


@define(eq=False)
class Link:
    """One connection to another rank. Frames may be sent on any thread.

    Attributes:
        peer: The other side's rank.
        connection: The socket.
        frames: Bodies that arrived and were not taken yet.
        seen: Monotonic seconds of the last sign of life.
    """

    peer: int
    connection: socket.socket
    frames: "queue.SimpleQueue[bytes]" = field(factory=queue.SimpleQueue)
    seen: float = field(factory=time.monotonic)
    broken: str | None = None
    _sending: threading.Lock = field(factory=threading.Lock)
    _ended: threading.Event = field(factory=threading.Event)

    def start(self) -> None:
        """Read and beat in the background from now on."""
        for work in (self._read, self._beat):
            threading.Thread(target=work, name=f"mlxserve-link-{self.peer}", daemon=True).start()

    def send(self, frame: bytes) -> None:
        """Send a whole frame.

        Raises:
            LinkBrokenError: The other side is gone.
        """
        try:
            with self._sending:
                self.connection.sendall(frame)
        except OSError as error:
            raise LinkBrokenError(f"rank {self.peer} is gone: {error}") from error

    def expect(self) -> None:
        """Wait for a frame, however long it takes: who watches the links ends what is in vain."""
        while True:
            with suppress(queue.Empty):
                self.frames.get(timeout=BEAT)
                return

    def close(self) -> None:
        """Hang up, on both sides."""
        with suppress(OSError):  # the other side was quicker
            self.connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        with self.connection:
            try:
                while True:
                    body = receive(self.connection)
                    self.seen = time.monotonic()
                    if body:
                        self.frames.put(body)
            except LinkBrokenError as error:
                self.broken = str(error)
            self._ended.set()

    def _beat(self) -> None:
        try:
            while self.broken is None:
                self.send(HEARTBEAT)
                self._ended.wait(BEAT)
        except LinkBrokenError as error:
            self.broken = str(error)


@define(eq=False)
class Links:
    """All links of this process, watched.

    Attributes:
        links: The links.
        timeout: Seconds without a sign of life after which a rank counts as dead.
        fatal: Told when one is.
        patience: Seconds after which a step counts as stuck, here or where it waits for another
            rank's: threads that beat say nothing about it. 0 is never.
        age: Returns the seconds that this process's step has taken so far.
        loaded: Whether every rank has loaded.
    """

    links: list[Link]
    timeout: float
    fatal: Fatal
    patience: float = 0.0
    age: Callable[[], float] = field(default=lambda: 0.0)
    loaded: bool = False
    closing: bool = False

    def watch(self) -> None:
        """Watch in the background from now on."""
        threading.Thread(target=self._watch, name="mlxserve-ranks", daemon=True).start()

    def close(self) -> None:
        """Stop watching: what ends from now on is meant to."""
        self.closing = True

    def _watch(self) -> None:
        while not self.closing:
            trouble = self._trouble()
            if self.closing:
                return
            if trouble is not None:
                self.fatal(trouble)
                return
            time.sleep(BEAT / 4)

    def _trouble(self) -> str | None:
        limit = self.timeout if self.loaded else max(self.timeout, LOADING)
        for link in self.links:
            silence = time.monotonic() - link.seen
            if link.broken is not None:
                return f"rank {link.peer} is gone: {link.broken}"
            if silence > limit:
                return f"rank {link.peer} has been silent for {silence:.0f} s"
        age = self.age()
        if self.patience and age > self.patience:
            return f"a step has taken {age:.0f} s: a rank is stuck, or too slow for the others"
        return None


def lead(rank: Rank, timeout: float) -> list[Link]:
    """Wait for the other ranks to connect to rank 0; those that came are kept awake meanwhile.

    Raises:
        LinkBrokenError: They did not, within ``timeout`` seconds, or one came and went.
    """
    found: dict[int, Link] = {}
    with _listen(rank) as listener, ExitStack() as otherwise:
        listener.settimeout(BEAT / 4)
        deadline = time.monotonic() + timeout
        while len(found) < rank.size - 1:
            for link in found.values():
                if link.broken is not None:
                    raise LinkBrokenError(f"rank {link.peer} came and went: {link.broken}")
            if time.monotonic() > deadline:
                missing = sorted(set(range(1, rank.size)) - found.keys())
                raise LinkBrokenError(f"ranks {missing} did not come within {timeout:.0f} s")
            if (came := _accept(listener, rank)) is not None:
                found[came.peer] = came
                otherwise.callback(came.close)
                came.start()
        otherwise.pop_all()
    return [found[peer] for peer in sorted(found)]


def _listen(rank: Rank) -> socket.socket:
    host, port = rank.control
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(rank.control, family=family)
    except OSError as error:
        raise LinkBrokenError(
            f"{host}:{port}, where the others are to meet it, cannot be had: {error.strerror}"
        ) from error


def _accept(listener: socket.socket, rank: Rank) -> Link | None:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return None
    return _welcome(connection, rank)


def follow(rank: Rank, timeout: float) -> Link:
    """Connect to rank 0, and beat from then on.

    Raises:
        LinkBrokenError: It is not there, within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(rank.control, timeout=5.0)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise LinkBrokenError(f"rank 0 is not at {rank.control}: {error}") from error
            time.sleep(0.1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(_ticket(rank, rank.rank))
    connection.settimeout(None)
    link = Link(0, connection)
    link.start()
    return link


TICKET: Final = 4 + 32


def _ticket(rank: Rank, number: int) -> bytes:
    proof = hmac.digest(rank.secret.encode(), f"{number} of {rank.size}".encode(), "sha256")
    return number.to_bytes(4, "big") + proof


def _welcome(connection: socket.socket, rank: Rank) -> Link | None:
    """Return the link if the caller is a rank of this run; hang up on anybody else."""
    connection.settimeout(5.0)
    shown = b""
    try:
        while len(shown) < TICKET and (part := connection.recv(TICKET - len(shown))):
            shown += part
    except OSError:
        shown = b""
    number = int.from_bytes(shown[:4], "big")
    if not hmac.compare_digest(shown, _ticket(rank, number)) or not 0 < number < rank.size:
        log.warning("a stranger at the control port was turned away")
        connection.close()
        return None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(None)
    return Link(number, connection)
