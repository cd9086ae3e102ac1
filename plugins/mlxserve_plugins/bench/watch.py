"""Look at a server's process from outside, and at what it says of itself."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define, field

from mlxserve_plugins.bench.client import BenchError, Server
from mlxserve_plugins.bench.trend import Sample

REST_S: Final = 30.0
REST_POLL_S: Final = 0.2
OK: Final = 200
ON_DISK: Final = {"tier": "ssd", "figure": "bytes"}
AT_REST: Final = ("active_sequences", "queued_requests", "used_blocks")
"""Gauges that are 0 when nobody is served."""


@define
class Watch:
    """Samples a server until it is told to stop.

    Attributes:
        server: The server.
        pid: Its process, if it is known.
        interval: Seconds between two looks.
        samples: What was seen.
    """

    server: Server
    pid: int | None
    interval: float = 1.0
    samples: list[Sample] = field(factory=list)

    async def run(self, until: float) -> None:
        """Look again and again until ``time.monotonic`` is ``until``."""
        begun = time.monotonic()
        while time.monotonic() < until:
            self.samples.append(await self._look(time.monotonic() - begun))
            await asyncio.sleep(self.interval)

    async def left_over(self) -> Mapping[str, float]:
        """Wait until nobody is served; return what is in use even then."""
        end = time.monotonic() + REST_S
        while True:
            gauges = await gauges_of(self.server)
            busy = {name: gauges[name] for name in AT_REST if gauges.get(name)}
            if not busy or time.monotonic() > end:
                return busy
            await asyncio.sleep(REST_POLL_S)

    async def _look(self, seconds: float) -> Sample:
        gauges = await gauges_of(self.server)
        pid = self.pid
        return Sample(
            seconds=seconds,
            memory=None if pid is None else resident(pid),
            threads=None if pid is None else entries(pid, "task"),
            files=None if pid is None else entries(pid, "fd"),
            used_blocks=gauges.get("used_blocks"),
            cached_blocks=gauges.get("mlxserve_cached_blocks"),
            disk_bytes=gauges.get("disk_bytes"),
        )


async def gauges_of(server: Server) -> Mapping[str, float]:
    """Return what ``/metrics`` says, without labels; empty where there is no such thing."""
    import httpx  # noqa: PLC0415 - only where something is measured

    try:
        answer = await server.http.get("/metrics")
    except httpx.HTTPError:  # what is wrong shows in the traffic
        return {}
    return read_gauges(answer.text) if answer.status_code == OK else {}


def read_gauges(text: str) -> Mapping[str, float]:
    """Return the samples without labels, and as ``disk_bytes`` what KV takes on disk."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.labels:
                found[sample.name] = sample.value
            elif sample.labels == ON_DISK:
                found["disk_bytes"] = sample.value
    return found


def entries(pid: int, what: str) -> int | None:
    """Return how many threads (``task``) or open files (``fd``) a process has, on Linux."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())
    except OSError:  # not Linux, or not ours to look at
        return None


def resident(pid: int, read: Callable[[Path], str] = Path.read_text) -> int:
    """Return a process's resident memory in bytes.

    Raises:
        BenchError: There is no such process.
    """
    with suppress(OSError):  # not Linux
        for line in read(Path(f"/proc/{pid}/status")).splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return _asked(["ps", "-o", "rss=", "-p", str(pid)], pid)


def _asked(words: Sequence[str], pid: int) -> int:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return int(done.stdout) * 1024
    except (OSError, ValueError) as error:
        raise BenchError(f"the memory of process {pid} cannot be read: is it there?") from error
