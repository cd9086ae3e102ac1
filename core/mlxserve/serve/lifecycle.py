"""One run of the server: open, load, serve, drain, end."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn
from attrs import define
from litestar import Litestar

from mlxserve.hooks import ask, tell
from mlxserve.resolved import Resolved, SettingRow
from mlxserve.serve.address import address_of
from mlxserve.serve.app import build_app
from mlxserve.serve.greeting import greeting
from mlxserve.serve.logging import adopt_libraries, release_held
from mlxserve.serve.protocol import HttpProtocol
from mlxserve.serve.service import Service
from mlxserve.settings import DEFAULT_ORIGIN
from mlxserve_hookspecs import Credentials, ModelError, RequestError, admission, lifecycle
from mlxserve_hookspecs.serving import CHAT_PATH

log = structlog.get_logger("mlxserve.serve")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
GLANCE: Final = 0.05
"""Seconds between two looks at what has no event to wait for: another thread's progress."""

HELD_S: Final = 10.0
"""Seconds for which log lines wait for a mistake that ends the start."""

LAST_WORDS: Final = 5
"""Seconds that connections get to send what is left after the drain."""


IDLE: Final = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs, so that
it is they who close it and no request meets a closing connection. httpx keeps 5, as uvicorn did."""


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to ``Lifecycle``."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


@define(eq=False)
class Lifecycle:
    """Owns what happens between the first request for a port and the exit status.

    Attributes:
        resolved: The run's settings.
        service: The engine's owner.
        listener: Where to listen.
        on_loaded: Called when the model is loaded, or loading failed.
        leave: Ends the process at once with this status.
    """

    resolved: Resolved
    service: Service
    listener: socket.socket
    on_loaded: Callable[[], None]
    leave: Callable[[int], None]
    _signal: signal.Signals | None = None

    async def main(self) -> int:
        """Serve until a signal comes or the engine fails; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._hear, number)
        app = build_app(self.resolved, self.service)
        server = make_server(app)
        http = asyncio.create_task(server.serve([self.listener]))
        loop.call_later(HELD_S, release_held)
        self.service.attach(loop)
        self.service.start()
        try:
            return await self._serve(app, http)
        finally:
            server.should_exit = True
            await http

    async def _serve(self, app: Litestar, http: "asyncio.Task[None]") -> int:
        await self._until(self.service.loaded.is_set, http)
        self.on_loaded()
        if not self.service.loaded.is_set():
            return self._abandon_loading()
        if self.service.failure is not None:
            raise explained(self.service.failure, self.resolved.rows)
        adopt_libraries()
        release_held()
        self._greet(app)
        await self._until(lambda: self.service.failure is not None, http)
        await self._drain()
        return 0 if self.service.failure is None and self._signal else 1

    async def _until(self, happened: Callable[[], bool], http: "asyncio.Task[None]") -> None:
        """Wait until something happened, a signal came or the server ended by itself."""
        while not (happened() or self._signal or http.done()):
            await asyncio.sleep(GLANCE)
        if http.done():
            http.result()  # raises what ended it

    def _hear(self, number: signal.Signals) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # the terminal has just shown ^C
        release_held()
        if self._signal is not None:
            log.warning("stopped at once", signal=number.name)
            self.leave(128 + number)
        self._signal = number
        if self.service.loaded.is_set():
            status = self.service.client.status
            log.info(
                "shutting down",
                signal=number.name,
                running=status.running,
                waiting=status.waiting,
                timeout_s=self.resolved.server.shutdown_timeout_s,
            )

    def _abandon_loading(self) -> int:
        log.info("stopped while the model was loading")
        status = 0 if self._signal else 1
        self.leave(status)
        return status

    def _greet(self, app: Litestar) -> None:
        stranger = Credentials(headers={}, path=CHAT_PATH)
        answer = ask(self.resolved.plugins, admission.authenticate)(credentials=stranger)
        lines = greeting(
            address_of(self.listener),
            self.service.client.card,
            {route.path for route in app.routes},
            needs_key=isinstance(answer, RequestError),
        )
        sys.stdout.write(f"{lines}\n")
        sys.stdout.flush()

    async def _drain(self) -> None:
        """Let requests in flight finish or fail before the deadline, then stop the engine."""
        tell(self.resolved.plugins, lifecycle.stopping)()
        timeout = self.resolved.server.shutdown_timeout_s
        finished = await asyncio.to_thread(self.service.drain, timeout)
        if not finished:
            log.warning("requests were cut off", shutdown_timeout_s=timeout)
        await asyncio.to_thread(self.service.stop)
        log.info("stopped", requests="finished" if finished else "cut off")


def explained(failure: BaseException, rows: Iterable[SettingRow]) -> BaseException:
    """Return ``failure``, or, where the user named no model, an error that says so first."""
    named = any(
        (row.section, row.name) == ("model", "model") and row.origin != DEFAULT_ORIGIN
        for row in rows
    )
    if named or not isinstance(failure, ModelError):
        return failure
    meant = ModelError(f"no model was named, so the default was meant: {failure}")
    meant.__cause__ = failure
    return meant


def make_server(app: Litestar) -> Server:
    """Return the HTTP server of ``app``; whoever runs it owns the signals and the listener."""
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            http=HttpProtocol,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=LAST_WORDS,
        )
    )
