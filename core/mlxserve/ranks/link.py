"""The control links between rank 0 and the others: turns one way, heartbeats both ways."""

import hmac
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from attrs import define, field

from mlxserve.ranks.frames import HEARTBEAT, LinkBrokenError, receive
from mlxserve_hookspecs import Rank

log = structlog.get_logger("mlxserve.ranks")
BEAT: Final = 1.0
"""Seconds between heartbeats."""

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

    def _read(self) -> None:
        try:
            while True:
                body = receive(self.connection)
                self.seen = time.monotonic()
                if body:
                    self.frames.put(body)
        except LinkBrokenError as error:
            self.broken = str(error)

    def _beat(self) -> None:
        try:
            while self.broken is None:
                self.send(HEARTBEAT)
                time.sleep(BEAT)
        except LinkBrokenError as error:
            self.broken = str(error)


@define(eq=False)
class Links:
    """All links of this process, watched.

    Attributes:
        links: The links.
        timeout: Seconds without a sign of life after which a rank counts as dead.
        fatal: Told when one is.
    """

    links: list[Link]
    timeout: float
    fatal: Fatal
    closing: bool = False

    def watch(self) -> None:
        """Start the links and the watch over them."""
        for link in self.links:
            link.start()
        threading.Thread(target=self._watch, name="mlxserve-ranks", daemon=True).start()

    def close(self) -> None:
        """Stop watching: what ends from now on is meant to."""
        self.closing = True

    def _watch(self) -> None:
        while not self.closing:
            for link in self.links:
                silence = time.monotonic() - link.seen
                if self.closing:
                    return
                if link.broken is not None:
                    self.fatal(f"rank {link.peer} is gone: {link.broken}")
                    return
                if silence > self.timeout:
                    self.fatal(f"rank {link.peer} has been silent for {silence:.0f} s")
                    return
            time.sleep(BEAT / 4)


def lead(rank: Rank, timeout: float) -> list[Link]:
    """Wait for the other ranks to connect to rank 0.

    Raises:
        LinkBrokenError: They did not, within ``timeout`` seconds.
    """
    found: dict[int, Link] = {}
    with socket.create_server(rank.control, reuse_port=False) as listener:
        deadline = time.monotonic() + timeout
        while len(found) < rank.size - 1:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = listener.accept()
                link = _welcome(connection, rank)
            except TimeoutError as error:
                missing = sorted(set(range(1, rank.size)) - found.keys())
                raise LinkBrokenError(f"ranks {missing} did not come") from error
            if link is not None:
                found[link.peer] = link
    return [found[peer] for peer in sorted(found)]


def follow(rank: Rank, timeout: float) -> Link:
    """Connect to rank 0.

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
    return Link(0, connection)


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
