"""Load from several processes, so that it is the server that is measured and not its clients."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Final

from attrs import define, field, frozen

from mlxserve_plugins.bench.client import Ask, Server, open_http
from mlxserve_plugins.bench.figures import Trace
from mlxserve_plugins.bench.load import closed_loop

LEAD_S: Final = 0.3
"""Seconds in which every process has its work and nobody has begun."""


@frozen(kw_only=True)
class Place:
    """Where requests go.

    Attributes:
        url: The server's address.
        model: The model that is asked for; empty leaves it to the server.
        api_key: A key, if it wants one.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)


@define
class Crowd:
    """Client processes that live as long as a benchmark does."""

    processes: int
    _pool: ProcessPoolExecutor

    async def ask(self, place: Place, asks: Sequence[Ask], clients: int) -> Sequence[Trace]:
        """Send requests from ``clients`` clients, each its next when its last is answered.

        The clients are split over the processes and all begin at one moment. Times in the traces
        are of one clock: ``time.perf_counter`` is the system's on Linux and macOS.
        """
        shares = share(asks, clients, self.processes)
        start = time.perf_counter() + LEAD_S
        loop = asyncio.get_running_loop()
        work = [
            loop.run_in_executor(self._pool, _work, place, part, count, start)
            for part, count in shares
        ]
        return [trace for traces in await asyncio.gather(*work) for trace in traces]


@contextmanager
def crowd(processes: int) -> Iterator[Crowd]:
    """Yield client processes; they are there when this returns, and gone at the end."""
    # Spawned: a fork would copy the event loop's threads in whatever state they are.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_import, range(processes)))
        yield Crowd(processes, pool)


def share(asks: Sequence[Ask], clients: int, processes: int) -> Sequence[tuple[Sequence[Ask], int]]:
    """Return each process's requests and number of clients."""
    used = min(processes, clients)
    counts = [clients // used + (at < clients % used) for at in range(used)]
    owners = [at for at, count in enumerate(counts) for _ in range(count)]
    parts: list[list[Ask]] = [[] for _ in counts]
    for number, ask in enumerate(asks):
        parts[owners[number % clients]].append(ask)
    return [*zip(parts, counts, strict=True)]


def _work(place: Place, asks: Sequence[Ask], clients: int, start: float) -> Sequence[Trace]:
    return asyncio.run(_begin(place, asks, clients, start))


async def _begin(place: Place, asks: Sequence[Ask], clients: int, start: float) -> Sequence[Trace]:
    async with open_http(place.url, place.api_key) as http:
        # The same body for every server: none is asked to go on past the end of a reply.
        server = Server(place.url, place.model, http, whole=False)
        await asyncio.sleep(max(0.0, start - time.perf_counter()))
        return await closed_loop(server, asks, clients)


def _import(_: int) -> None:
    import httpx  # noqa: F401, PLC0415 - what takes time must be over before anything is measured

    time.sleep(0.05)  # so that one process does not answer for all
