"""``mlxserve fleet``: read the file, listen, serve until a signal comes."""

import asyncio
import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvicorn
from attrs import define

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.auth import Auth, AuthOptions, is_public
from mlxserve_plugins.fleet.file import FleetFile, read_file
from mlxserve_plugins.fleet.front import Front
from mlxserve_plugins.fleet.keeper import Keeper, say

BACKLOG: Final = 2048
IDLE_S: Final = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs."""


def run(arguments: Namespace) -> int:
    """Serve until a signal comes; return the exit status.

    Raises:
        SettingError: The file is wrong, or the port cannot be had.
    """
    file = read_file(Path(arguments.file))
    given = {"host": arguments.host, "port": arguments.port}
    file = msgspec.structs.replace(
        file, **{name: value for name, value in given.items() if value is not None}
    )
    key_file = None if file.api_key_file is None else Path(file.api_key_file).expanduser()
    auth = Auth(AuthOptions(api_key_file=key_file))
    auth.keys.load()
    if is_public(file.host) and key_file is None:
        say(f"warning: anyone who reaches {file.host} can use the server; set api_key_file")
    with listen(file.host, file.port) as listener:
        return asyncio.run(Run(file, listener).main(auth))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingError: The host is unknown, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        # With the protocol named, asyncio turns Nagle's algorithm off.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"the host {host!r} is unknown; set host to one of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingError(f"cannot listen on port {port} of {host}: {error.strerror}") from error
    return listener


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to ``Run``."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


@define(eq=False)
class Run:
    """One run of the front. Main thread only, which is what its children hang on."""

    file: FleetFile
    listener: socket.socket
    _keeper: Keeper | None = None
    _server: Server | None = None
    _stopped: bool = False

    async def main(self, auth: Auth) -> int:
        """Serve until a signal comes; no child is left when this returns."""
        loop = asyncio.get_running_loop()
        keeper = self._keeper = Keeper(self.file)
        front = Front(keeper, auth)
        config = uvicorn.Config(
            front,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="off",
            server_header=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=round(self.file.shutdown_timeout_s),
        )
        self._server = Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._hear, number)
        care = asyncio.create_task(keeper.look_after())
        self._greet()
        try:
            await self._server.serve([self.listener])
        finally:
            care.cancel()
            await keeper.stop()
            await front.client.aclose()
        say("stopped")
        return 0

    def _hear(self, number: signal.Signals) -> None:
        if self._keeper is None or self._server is None:
            return
        if self._stopped:
            self._keeper.kill()
            os._exit(128 + number)
        self._stopped = self._keeper.stopping = True
        self._server.should_exit = True
        say(f"{number.name}: replies have {self.file.shutdown_timeout_s:g} s to finish")

    def _greet(self) -> None:
        host, port = self.listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(self.file.models)
        sys.stdout.write(f"mlxserve serves {names} on http://{shown}:{port}\n")
        sys.stdout.flush()
