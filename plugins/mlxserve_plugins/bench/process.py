"""A server of our own, for benchmarks that start it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import field, frozen

from mlxserve_plugins.bench.client import BenchError, Server, connect
from mlxserve_plugins.bench.flags import Common
from mlxserve_plugins.bench.report import tell

RUN: Final = (sys.executable, "-m", "mlxserve", "run")
HOST: Final = "127.0.0.1"
START_S: Final = 600.0
STOP_S: Final = 120.0
POLL_S: Final = 0.05
OK: Final = 200
LAST_LINES: Final = 3


@frozen(kw_only=True)
class Started:
    """A server that is ready.

    Attributes:
        url: Its address.
        pid: Its process.
        began: When the process was started, by ``time.perf_counter``.
        ready_s: Seconds from then until it said that it is ready.
    """

    url: str
    pid: int
    began: float
    ready_s: float


@frozen(kw_only=True)
class Command:
    """How to start a server.

    Attributes:
        words: Its flags.
        log: Where its output goes.
        run: What comes before the flags.
        ready: The route that answers 200 once it serves.
        variables: What its environment has beside ours.
        orderly: Whether it ends with status 0 on SIGTERM; servers of others need not.
    """

    words: tuple[str, ...]
    log: Path
    run: Sequence[str] = field(default=RUN)
    ready: str = "/readyz"
    variables: Mapping[str, str] = field(factory=dict)
    orderly: bool = True

    @asynccontextmanager
    async def serving(self, flags: Common) -> AsyncIterator[Server]:
        """Start a server, yield a client of it, then end it as an operator would.

        Raises:
            BenchError: It does not start, or does not end.
        """
        async with self.running() as started, connect(started.url, flags) as server:
            yield server

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Started]:
        """Start a server, yield where it is when it is ready, then end it; raises likewise."""
        port = free_port()
        url = f"http://{HOST}:{port}"
        # The last of two flags counts.
        words = (*self.run, *self.words, "--host", HOST, "--port", str(port))
        env = {**os.environ, **self.variables}
        began = time.perf_counter()
        with (
            self.log.open("ab") as log,
            subprocess.Popen(words, stdout=log, stderr=log, env=env) as process,
        ):
            try:
                tell(f"starting {' '.join(words)}")
                await self._ready(process, url)
                ready = time.perf_counter() - began
                yield Started(url=url, pid=process.pid, began=began, ready_s=ready)
                await self._end(process)
            finally:
                if process.poll() is None:
                    process.kill()

    async def _ready(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        import httpx  # noqa: PLC0415 - only where something is measured

        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            for _ in range(round(START_S / POLL_S)):
                if process.poll() is not None:
                    raise BenchError(f"the server ended at once: {self._last_words()}")
                with suppress(httpx.HTTPError):  # not listening yet
                    if (await http.get(self.ready)).status_code == OK:
                        return
                await asyncio.sleep(POLL_S)
        raise BenchError(f"the server is not ready after {START_S:.0f} s: {self._last_words()}")

    async def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        try:
            status = await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the server did not end within {STOP_S:.0f} s of SIGTERM") from error
        if self.orderly and status != 0:
            raise BenchError(f"the server ended with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-LAST_LINES:]) or "it said nothing"


def own_cache(folder: Path) -> Mapping[str, str]:
    """Return a variable that keeps a server's KV out of its user's own cache.

    A user's own is not to be filled with what nobody will ask for again. A variable, because the
    flag is an error where a user has no cache on disk, and a user's flag beats it.
    """
    return {"MLXSERVE_SSD_CACHE_DIR": str(folder)}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
