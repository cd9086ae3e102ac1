"""HAProxy, as ``examples/deploy/haproxy`` has it, before three replicas of which two go away."""

import asyncio
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, frozen

from .live import LOOPBACK, LiveServer, serving, until

CONFIG = Path(__file__).parents[2] / "examples" / "deploy" / "haproxy" / "haproxy.cfg"
NAMES = ("r1", "r2", "r3")
STREAMS = 200
LATER = 60
"""So many of them come when two replicas are on their way out."""

CONVERSATIONS = 24
"""Many at once, so that none leaves its replica because a few others happen to be there too: the
example gives no replica more than twice the mean."""

TURNS = 4
AT_ONCE = 12
LIMITS = (
    "--max-concurrent-requests", "256", "--max-queue-size", "256", "--max-batch-size", "16",
)  # fmt: skip


@frozen
class Replicas:
    """Three servers by name, and the address before them."""

    servers: dict[str, LiveServer]
    url: str


@define
class Outcome:
    """What came of one stream: by whom, with which status, and whether it ended well."""

    by: str = ""
    status: int = 0
    begun: bool = False
    whole: bool = False


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def configured(servers: dict[str, LiveServer], port: int) -> str:
    """Return the example with this test's addresses in it, and nothing else changed."""
    text = CONFIG.read_text().replace("bind :8000", f"bind 127.0.0.1:{port}")
    for name, server in servers.items():
        text, count = re.subn(rf"(server {name}) \S+", rf"\1 127.0.0.1:{server.port}", text)
        assert count == 1
    return text


@pytest.fixture(scope="module")
def replicas(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Return three replicas behind HAProxy, started side by side."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("needs haproxy (Debian: apt-get install haproxy)")
    words = (*LOOPBACK, "--model", str(tiny_folder), "--served-model-name", "tiny", "--no-ssd")
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    with ExitStack() as stack, ThreadPoolExecutor(len(NAMES)) as pool:
        waiting = [stack.push(serving(folders[name], *words, *LIMITS)) for name in NAMES]
        started = pool.map(lambda it: it.__enter__(), waiting)
        servers = dict(zip(NAMES, started, strict=True))
        port, folder = free_port(), tmp_path_factory.mktemp("haproxy")
        (folder / "haproxy.cfg").write_text(configured(servers, port))
        with (folder / "log").open("wb") as log:
            command = [program, "-db", "-f", str(folder / "haproxy.cfg")]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _answers(port), 10)
        assert process.poll() is None, (folder / "log").read_text()
        yield Replicas(servers, url)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


# -- conversations -------------------------------------------------------------------------------


async def converse(client: httpx.AsyncClient, at: int, salt: str) -> tuple[int, int, set[str]]:
    """Hold a conversation; return prompt tokens, those from a cache, and who answered."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "the tokens are one; " * 8},
        {"role": "user", "content": f"conversation {at * 7919} begins: " + "two tokens, " * 20},
    ]
    asked, cached, by = 0, 0, set()
    for turn in range(TURNS):
        body = {"model": "tiny", "messages": messages, "max_tokens": 24, "ignore_eos": True}
        answer = await client.post("/v1/chat/completions", json=body | {"cache_salt": salt})
        assert answer.status_code == 200, answer.text
        by.add(answer.headers.get("x-served-by", ""))
        usage = answer.json()["usage"]
        asked += usage["prompt_tokens"]
        cached += usage["prompt_tokens_details"]["cached_tokens"]
        reply = answer.json()["choices"][0]["message"]["content"]
        messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": f"and then, {turn}? " * 6})
    return asked, cached, by


async def hit_rate(url: str, salt: str) -> tuple[float, list[set[str]]]:
    """Hold many conversations, some at a time; return the share of cached tokens, and by whom."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def one(at: int) -> tuple[int, int, set[str]]:
            async with gate:
                return await converse(client, at, salt)

        found = await asyncio.gather(*(one(at) for at in range(CONVERSATIONS)))
    return sum(f[1] for f in found) / sum(f[0] for f in found), [f[2] for f in found]


def test_conversations_find_their_prefix_as_on_one_replica(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, _ = asyncio.run(hit_rate(replicas.servers["r3"].url, "alone"))
    behind, by = asyncio.run(hit_rate(replicas.url, "behind"))
    with capsys.disabled():
        print(f"\nhit rate of one replica {alone:.3f}, of three {behind:.3f}")  # noqa: T201
    assert set().union(*by) == set(NAMES)
    assert alone > 0.5
    assert behind > 0.95 * alone


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-session-id": "s"}, {"prompt": "{n}"}),
        ({}, {"prompt": "the same beginning. " * 40 + "{n}"}),
        ({}, {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "{n}"}]}),
    ],
    ids=["session", "leading text", "leading messages"],
)
def test_what_belongs_together_goes_to_one_replica(
    replicas: Replicas, headers: dict[str, str], body: dict[str, Any]
) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"

    def by(text: str, extra: list[dict[str, str]]) -> str:
        mine = {name: fill(value, text) for name, value in body.items()}
        if "messages" in mine:
            mine["messages"] += extra
        answer = httpx.post(
            replicas.url + path, json={**mine, "max_tokens": 1}, headers=headers, timeout=60
        )
        assert answer.status_code == 200
        return answer.headers["x-served-by"]

    turns = [[{"role": "user", "content": "more"}] * n for n in range(3)]
    if "messages" in body:
        for at in range(4):
            assert len({by(f"user {at}", turn) for turn in turns}) == 1
        assert len({by(f"user {at}", []) for at in range(12)}) > 1
    else:
        assert len({by(f"question {at}", []) for at in range(6)}) == 1


def fill(value: Any, text: str) -> Any:
    if isinstance(value, list):
        return [{**it, "content": it["content"].replace("{n}", text)} for it in value]
    return value.replace("{n}", text)


# -- two of three go -------------------------------------------------------------------------------


async def stream(client: httpx.AsyncClient, at: int, outcome: Outcome) -> None:
    body = {"prompt": f"{at * 7919} asks: ", "max_tokens": 40, "ignore_eos": True, "stream": True}
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            outcome.status, outcome.by = answer.status_code, answer.headers["x-served-by"]
            async for line in answer.aiter_lines():
                outcome.begun = outcome.begun or line.startswith("data: {")
                outcome.whole = outcome.whole or line == "data: [DONE]"
    except httpx.TransportError:
        pass


async def crowd(replicas: Replicas) -> list[Outcome]:
    outcomes = [Outcome() for _ in range(STREAMS)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=replicas.url, limits=limits, timeout=120) as client:

        def begin(first: int, last: int) -> list["asyncio.Task[None]"]:
            mine = range(first, last)
            return [asyncio.create_task(stream(client, at, outcomes[at])) for at in mine]

        running = begin(0, STREAMS - LATER)
        async with asyncio.timeout(60):
            while {it.by for it in outcomes if it.begun and not it.whole} < set(NAMES):
                await asyncio.sleep(0.005)
        replicas.servers["r1"].signal(signal.SIGKILL)
        replicas.servers["r2"].signal(signal.SIGTERM)
        for at in range(STREAMS - LATER, STREAMS, 4):
            running += begin(at, at + 4)
            await asyncio.sleep(0.05)
        await asyncio.gather(*running)
    return outcomes


def test_only_the_streams_of_a_killed_replica_are_lost(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = asyncio.run(crowd(replicas))
    lost = [it for it in outcomes if not it.whole]
    served = Counter(it.by for it in outcomes if it.whole)
    with capsys.disabled():
        print(f"\n{STREAMS} streams: {dict(served)} whole, {len(lost)} lost with r1")  # noqa: T201
    assert {it.by for it in lost} == {"r1"}
    assert any(it.begun for it in lost)
    assert all(it.whole for it in outcomes[STREAMS - LATER + 4 :])
    assert served["r2"]
    assert served["r3"] >= LATER / 2
    assert replicas.servers["r2"].ended() == 0
    assert replicas.servers["r1"].ended() == -signal.SIGKILL
    answer = httpx.post(replicas.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert (answer.status_code, answer.headers["x-served-by"]) == (200, "r3")
