"""One process of ``mlxserve run``: from its start to its end."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from typing import Any, Final

from attrs import define, field

from mlxserve_hookspecs import MlxserveError
from mlxserve_plugins.distributed.environment import LEASH

GREETING: Final = re.compile(rb"^mlxserve serves .* on (http://\S+)$")
LAUNCHER: Final = "mlxserve_plugins.fleet.launcher"
TAIL: Final = 4096
COMPLAINT: Final = "mlxserve: "
CHUNK: Final = 1 << 16
STOP_S: Final = 60.0
"""Seconds between SIGTERM, at which nobody is answered any more, and SIGKILL."""


class StartError(MlxserveError):
    """A model could not be loaded."""


@define(eq=False)
class Child:
    """A server of one model. Made and used on the event loop of the main thread.

    The main thread, because Linux takes the end of the thread that started a process for its
    parent's.

    Attributes:
        words: Those of ``mlxserve``.
        leash: The read end of a pipe that ends with the front.
        url: Where it answers; empty until it is ready.
        users: Requests that it answers.
        leaving: Whether it gets no more of them.
    """

    words: tuple[str, ...]
    leash: int
    url: str = ""
    users: int = 0
    leaving: bool = False
    _process: Process | None = None
    _tail: bytes = b""
    _readers: list["asyncio.Task[None]"] = field(factory=list)

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return bool(self.url) and not self.leaving

    @property
    def pid(self) -> int | None:
        """Its process, once there is one."""
        return self._process.pid if self._process else None

    async def start(self, timeout: float) -> None:
        """Start it, and wait until its model is loaded.

        Raises:
            StartError: It ended, or took too long; it is gone then.
        """
        if self.leaving:
            raise StartError("the server is shutting down")
        greeted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            raise StartError(f"no process could be started: {error.strerror}") from error
        if process.stdout is None or process.stderr is None:
            raise StartError("a process without output")
        self._readers = [
            asyncio.create_task(self._read(process.stdout, greeted)),
            asyncio.create_task(self._relay(process.stderr)),
        ]
        ended: asyncio.Future[int] = asyncio.create_task(process.wait())
        either: set[asyncio.Future[Any]] = {greeted, ended}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await asyncio.wait(self._readers, timeout=1.0)
            raise StartError(self.last_words or f"it ended with status {ended.result()}")
        ended.cancel()
        if not greeted.done():
            self.kill()
            await process.wait()
            raise StartError(f"it was not ready after {timeout:g} s")
        self.url = greeted.result().decode()

    async def ended(self) -> int:
        """Wait for its end; return the status."""
        return await self._process.wait() if self._process else 0

    async def stop(self) -> None:
        """Ask it to end, and wait for that; kill it when it does not."""
        self.leaving = True
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def last_words(self) -> str:
        """Why it ended, as it said; else the last line of its log."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        told = [line for line in lines if line.startswith(COMPLAINT)] or lines
        return told[-1].removeprefix(COMPLAINT) if told else ""

    async def _spawn(self) -> Process:
        """Start it in a process group of its own: Ctrl-C is for the front to pass on."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", LAUNCHER, *self.words,
            env={**os.environ, LEASH: str(self.leash)},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(self.leash,),
            process_group=0,
        )  # fmt: skip

    async def _read(self, stdout: asyncio.StreamReader, greeted: "asyncio.Future[bytes]") -> None:
        async for line in stdout:
            found = GREETING.match(line.rstrip())
            if found and not greeted.done():
                greeted.set_result(found[1])

    async def _relay(self, stderr: asyncio.StreamReader) -> None:
        """Pass its log on as it is: a prefix would spoil JSON lines."""
        while chunk := await stderr.read(CHUNK):
            self._tail = (self._tail + chunk)[-TAIL:]
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
