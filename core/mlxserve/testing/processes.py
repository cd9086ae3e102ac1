"""A server as its user runs it: a process of its own, on a free port of this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx
from attrs import frozen

LOOPBACK: Final = ("--host", "127.0.0.1", "--port", "0")
GREETING: Final = re.compile(r"^mlxserve serves .* on (http://\S+)$", re.MULTILINE)
START_S: Final = 240.0
"""Seconds to a served model: the first start of all may download and convert one."""


@frozen(eq=False)
class ServerProcess:
    """A running server.

    Attributes:
        process: It.
        url: Where it answers.
        folder: Its ``stdout`` and ``stderr``.
    """

    process: "subprocess.Popen[bytes]"
    url: str
    folder: Path

    @property
    def port(self) -> str:
        """Where it listens."""
        return self.url.rpartition(":")[2]

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return (self.folder / "stderr").read_text("utf-8")

    def get(self, path: str) -> httpx.Response:
        """Return the answer to ``GET path``."""
        return httpx.get(self.url + path, timeout=30)

    def post(self, path: str, **body: object) -> httpx.Response:
        """Return the answer to ``POST path`` with a JSON object."""
        return httpx.post(self.url + path, json=body, timeout=120)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self, timeout: float = 30.0) -> int:
        """Wait for its end; return the exit status."""
        return self.process.wait(timeout)


def until(
    holds: Callable[[], object], timeout: float, explain: Callable[[], object] = lambda: ""
) -> float:
    """Wait until something holds; return the seconds it took.

    Raises:
        TimeoutError: It did not within ``timeout`` seconds.
    """
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > timeout:
            raise TimeoutError(f"not within {timeout:g} s: {explain()}")
        time.sleep(0.01)
    return time.monotonic() - begun


def environment() -> dict[str, str]:
    """Return this process's environment without settings of a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLXSERVE_")}


@contextmanager
def serving(
    folder: Path, *words: str, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[ServerProcess]:
    """Run ``mlxserve run`` with ``words`` until the block ends, then kill it if it still runs."""
    env = {**environment(), **variables}
    command = [sys.executable, "-m", "mlxserve", "run", *words]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env)
    try:
        yield ServerProcess(process, _url(process, folder), folder)
    finally:
        process.kill()
        process.wait()


def _url(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    def greeted() -> re.Match[str] | None:
        if process.poll() is not None:
            said = "".join((folder / name).read_text("utf-8") for name in ("stdout", "stderr"))
            raise RuntimeError(f"the server ended with status {process.returncode}: {said}")
        return GREETING.search((folder / "stdout").read_text("utf-8"))

    until(greeted, START_S)
    found = greeted()
    if found is None:
        raise RuntimeError("the greeting is gone")
    return found[1]
