"""A real Valkey or Redis server on a free port of this machine."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import valkey
from attrs import define, field

PROGRAMS = ("valkey-server", "redis-server")
START_S = 10.0


def until(holds: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It did not within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout:g} s")
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether anybody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as wire:
            wire.sendall(b"PING\r\n\r\n")
            return bool(wire.recv(16))
    except OSError:
        return False


@define(eq=False)
class Server:
    """A Valkey or Redis server without files.

    Attributes:
        program: Its path.
        folder: Where it runs.
        words: More of its settings.
        port: Where it listens, also after a restart.
    """

    program: str
    folder: Path
    words: tuple[str, ...] = ()
    port: int = field(factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def client(self) -> "valkey.Valkey":
        return valkey.Valkey(host="127.0.0.1", port=self.port, socket_timeout=5)

    def start(self) -> None:
        """Run; returns when it answers."""
        own = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        command = [self.program, *own, "--dir", str(self.folder), *self.words]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: answers(self.port), START_S)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End at once, as a machine that loses power; a stopped one too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def servers(folder: Path) -> Iterator[Callable[..., Server]]:
    """Yield a function that makes a server, to be started; kill them all in the end.

    Skips the test where no such program is installed.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(PROGRAMS)} (Debian: apt-get install redis-server)")
    made: list[Server] = []

    def make(*words: str) -> Server:
        mine = folder / f"valkey-{len(made)}"
        mine.mkdir()
        made.append(Server(program, mine, words))
        return made[-1]

    try:
        yield make
    finally:
        for server in made:
            server.kill()
