"""A connection on which nothing outlives its deadline."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import valkey
from valkey.connection import AbstractConnection, parse_url
from valkey.exceptions import ResponseError

from mlxserve_valkey_tier.alarms import Alarms

Command: TypeAlias = tuple[str | bytes | int, ...]
Connect: TypeAlias = Callable[[], AbstractConnection]

IDLE_S: Final = 1.0
"""Idle for longer, a connection is looked at before it is used: servers close such ones."""

SAME_SERVERS: Final = {"redis": "valkey", "rediss": "valkeys"}
READ_BYTES: Final = 1 << 18


def connector(url: str, seconds: float) -> Connect:
    """Return what makes connections to ``url`` that give up after ``seconds`` without a byte.

    Raises:
        ValueError: The URL cannot be read.
    """
    scheme, rest = url.split(":", 1)
    named: dict[str, Any] = dict(parse_url(f"{SAME_SERVERS.get(scheme, scheme)}:{rest}"))
    kind = named.pop("connection_class", valkey.Connection)
    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    kind_of_link: Callable[..., AbstractConnection] = kind
    return lambda: kind_of_link(**{**named, **limits, "socket_read_size": READ_BYTES})


def place_of(url: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Wire:
    """One connection, used by one thread; connects when first used and after a failure.

    Args:
        connect: Makes the connection.
        alarms: Call time.
        lasting: The server remembers something of the connection: a new one in its place will
            not do, and is an error until the epoch changes.
    """

    def __init__(self, connect: Connect, alarms: Alarms, *, lasting: bool = False) -> None:
        self._connection: Any = connect()  # mostly untyped
        self._alarms = alarms
        self._lasting = lasting
        self._open = False
        self._lock = Lock()
        self._turn = 0
        self._owed = 0
        self._epoch: int | None = None
        self._used = 0.0
        self.expired = False
        """Whether the last ``within`` ran out of time."""

    @contextmanager
    def within(self, seconds: float, epoch: int) -> Iterator[None]:
        """Close the connection if the block takes longer, raises, or leaves replies unread.

        A connection of another epoch than ``epoch`` is not used again.
        """
        self._renew(epoch)
        with self._lock:
            self._turn += 1
            turn, self.expired = self._turn, False
        number = self._alarms.set(seconds, lambda: self._expire(turn))
        whole = False
        try:
            yield
            whole = not self._owed
        finally:
            self._alarms.cancel(number)
            with self._lock:
                self._turn += 1
            self._used = time.monotonic()
            if not whole:
                self.close()

    def ask(self, *commands: Command) -> Iterator[Any]:
        """Send commands together, yield their replies in order; a refusal is a reply too.

        Raises:
            Exception: The connection failed, or was closed meanwhile.
        """
        self._owed += len(commands)
        self._open = True
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        for _ in commands:
            yield self._reply()

    def ask_one(self, *command: str | bytes | int) -> Any:
        """Return the reply of one command.

        Raises:
            Exception: It was refused, or as for ``ask``.
        """
        (reply,) = self.ask(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def heard(self, seconds: float) -> Sequence[Any] | None:
        """Return a message that nobody asked for; ``None`` if there is none for ``seconds``.

        Raises:
            Exception: As for ``ask``.
        """
        if not self._connection.can_read(seconds):
            return None
        message: Sequence[Any] = self._connection.read_response(disable_decoding=True)
        return message

    def close(self) -> None:
        """Let go of the connection; whoever waits for it fails. Any thread."""
        self._owed = 0
        self._open = False
        self._connection.disconnect()

    def _renew(self, epoch: int) -> None:
        if epoch != self._epoch:
            self.close()
            self._epoch = epoch
        elif self._lasting and not self._open:
            raise ConnectionError("the connection was lost")
        elif self._stale:
            self.close()
            self._renew(epoch)

    @property
    def _stale(self) -> bool:
        if not self._open or time.monotonic() - self._used < IDLE_S:
            return False
        try:
            return bool(self._connection.can_read(0))
        except Exception:
            return True

    def _reply(self) -> Any:
        try:
            reply = self._connection.read_response(disable_decoding=True)
        except ResponseError as refusal:
            reply = refusal
        self._owed -= 1
        return reply

    def _expire(self, turn: int) -> None:
        with self._lock:
            if turn == self._turn:
                self.expired = True
                self._connection.disconnect()
