"""Many clients, rude clients and slow clients."""

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from attrs import define, field

from .live import LiveServer
from .streams import Reading, streaming

pytestmark = pytest.mark.alone
Record = Callable[[str, object], None]
LONG = bool(os.environ.get("MLXSERVE_TEST_LONG"))
CLIENTS = 200
ROUNDS = 20 if LONG else 1
RUDE = 1000 if LONG else 100
TEXT = "/v1/completions"
PROBER = str(Path(__file__).with_name("prober.py"))


@define
class Probes:
    """What a supervisor saw of ``/livez`` meanwhile.

    Attributes:
        seconds: How long each answer took.
        statuses: Which ones there were.
    """

    seconds: list[float] = field(factory=list)
    statuses: list[int] = field(factory=list)

    @property
    def p99(self) -> float:
        """Seconds within which 99 of 100 answers came."""
        return statistics.quantiles(self.seconds, n=100)[98]


@contextmanager
def probing(server: LiveServer) -> Iterator[Probes]:
    """Probe from another process, so that the clients' own work is not measured."""
    command = [sys.executable, PROBER, server.port]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        probes = Probes()
        yield probes
        probes.seconds, probes.statuses = json.loads(process.communicate(timeout=30)[0])


async def ask(client: httpx.AsyncClient, at: int) -> list[httpx.Response]:
    """Return one client's answers: half of them stream."""
    found = []
    for turn in range(ROUNDS):
        body = {"prompt": f"{at} asks {turn}", "max_tokens": 24, "ignore_eos": True}
        answer = await client.post(TEXT, json=body | {"stream": at % 2 == 0})
        found.append(answer)
        if answer.status_code != 200:
            await asyncio.sleep(min(float(answer.headers["Retry-After"]), 2.0))
    return found


async def crowd(server: LiveServer) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
        answers = await asyncio.gather(*(ask(client, at) for at in range(CLIENTS)))
    return [answer for some in answers for answer in some]


def test_two_hundred_clients_are_served_or_told_when_to_come_back(
    tiny: LiveServer, record_property: Record
) -> None:
    with probing(tiny) as probes:
        answers = asyncio.run(crowd(tiny))
    statuses = Counter(answer.status_code for answer in answers)
    p99 = f"{1000 * probes.p99:.1f} ms of {len(probes.seconds)}"
    record_property("figure", f"{CLIENTS} clients: {dict(statuses)}; /livez p99 {p99}")
    assert len(answers) == CLIENTS * ROUNDS
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] >= 64
    assert statuses[429] + statuses[503] > 0
    for answer in answers:
        if answer.status_code == 200:
            assert '"finish_reason":"length"' in answer.text
        else:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"]["code"]
    assert probes.statuses == [200]
    assert probes.p99 < 1.0  # 50 ms on a machine of one's own
    tiny.rest()
    assert tiny.post(TEXT, prompt="afterwards", max_tokens=4).status_code == 200


async def leave_rudely(server: LiveServer, at: int) -> int:
    """Open a stream, leave at a random moment; return the bytes that came until then."""
    chance = random.Random(at)
    await asyncio.sleep(chance.uniform(0, 0.02 * RUDE))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.port))
    prompt = "word " * chance.choice([1, 40, 600])
    body = f'{{"prompt": "{prompt}", "max_tokens": 3000, "ignore_eos": true, "stream": true}}'
    head = f"POST {TEXT} HTTP/1.1\r\nHost: tiny\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = head + (body if chance.random() < 0.9 else body[: len(body) // 2])
    writer.write(sent.encode())
    came = 0
    leaving = asyncio.get_running_loop().time() + chance.choice([0, 0.01, 0.1, 0.5, 1.0])
    try:
        async with asyncio.timeout_at(leaving):
            while part := await reader.read(4096):
                came += len(part)
    except TimeoutError:
        pass
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
    return came


def test_clients_that_leave_at_random_moments_take_nothing_with_them(
    tiny: LiveServer, record_property: Record
) -> None:
    tiny.rest()
    before = tiny.metrics()["mlxserve_requests_received_total"]

    async def rude() -> list[int]:
        return await asyncio.gather(*(leave_rudely(tiny, at) for at in range(RUDE)))

    came = asyncio.run(rude())
    took = tiny.rest()
    let_in = tiny.metrics()["mlxserve_requests_received_total"] - before
    left = f"{RUDE} clients left, {let_in:g} let in"
    record_property("figure", f"{left}: at rest after {took:.3f} s")
    assert let_in >= RUDE / 4
    assert any(came)
    assert not all(came)
    assert took < 2  # a second, and what a busy machine adds
    assert tiny.get("/readyz").status_code == 200


def whole(wire: socket.socket) -> bytes:
    found = b""
    while part := wire.recv(65536):
        found += part
    return found


def test_a_reader_that_does_not_read_slows_nobody_down(tiny: LiveServer) -> None:
    def normal() -> float:
        begun = time.perf_counter()
        answer = tiny.post(TEXT, prompt="normal", max_tokens=60, ignore_eos=True)
        assert answer.status_code == 200
        return time.perf_counter() - begun

    normal()
    tiny.rest()
    body = (
        b'{"prompt": "slow", "max_tokens": 600, "ignore_eos": true, "stream": true, "logprobs": 10}'
    )
    head = b"POST /v1/completions HTTP/1.1\r\nHost: tiny\r\nConnection: close\r\n"
    slow = []
    for _ in range(4):
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(60)
        wire.connect(("127.0.0.1", int(tiny.port)))
        wire.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        slow.append(wire)
    beside = [normal() for _ in range(3)]
    with streaming(tiny, prompt="fast", max_tokens=60, ignore_eos=True) as lines:
        assert Reading().read(lines).done
    # The replies end although nobody reads them: rows are not held for slow readers.
    assert tiny.rest(timeout=60) < 60
    for wire in slow:
        assert whole(wire).count(b'"finish_reason":"length"') == 1
        wire.close()
    assert max(beside) < 10
