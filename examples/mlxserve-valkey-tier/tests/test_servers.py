"""Two servers of one model that share a Valkey server: what one read, the other need not."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from attrs import define, field, frozen

from .model import write_model
from .server import Server, answers, free_port, servers, until

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
START_S = 120.0
PREFIX = 2000
"""Tokens: one a byte."""

BLOCK = 16
BLOCKS = (PREFIX - 1) // BLOCK
"""Full ones that a hit can have: the last token must run."""

SHORT = 300
SHORT_BLOCKS = (SHORT - 1) // BLOCK

STALL_S = 0.1
"""What a server that goes or comes may add to the longest pause of a stream."""

PATIENCE_MS = 4000
"""Long, so that an engine that waited for the server even once could not be overlooked."""


@define
class Reply:
    """What came of a streamed completion.

    Attributes:
        text: All of it.
        times: When each part came, from the request on.
        usage: The last event's.
        by: Who answered, where a proxy says so.
    """

    text: str = ""
    times: list[float] = field(factory=list)
    usage: dict[str, Any] = field(factory=dict)
    by: str = ""

    @property
    def ttft(self) -> float:
        return self.times[0]

    @property
    def longest_gap(self) -> float:
        return max(b - a for a, b in zip(self.times, self.times[1:], strict=False))

    @property
    def cached(self) -> dict[str, int]:
        found: dict[str, int] = self.usage["prompt_tokens_details"].get("cached_tokens_by_tier", {})
        return found


@frozen
class Running:
    """A server of mlxserve."""

    url: str
    log: Path

    def ask(
        self, prompt: str, tokens: int = 8, enough: Event | None = None, session: str = ""
    ) -> Reply:
        """Stream a completion at temperature 0, leave when it is ``enough``; raises on errors."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        reply, begun, url = Reply(), time.monotonic(), f"{self.url}/v1/completions"
        headers = {"x-session-id": session} if session else {}
        with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
            assert answer.status_code == 200
            reply.by = answer.headers.get("x-served-by", "")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    assert "error" not in event
                    if event["choices"] and not event["choices"][0].get("finish_reason"):
                        reply.times.append(time.monotonic() - begun)
                        reply.text += event["choices"][0]["text"]
                    reply.usage = event.get("usage") or reply.usage
                if enough is not None and enough.is_set():
                    break
        return reply

    def figure(self, name: str) -> float:
        """Return what the tier says of itself at ``/metrics``."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        line = re.search(rf'cache_tier{{figure="{name}",tier="valkey"}} (\S+)', text) or re.search(
            rf'cache_tier{{tier="valkey",figure="{name}"}} (\S+)', text
        )
        return float(line[1]) if line else -1.0


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Running]:
    """Run ``mlxserve run`` until the block ends."""
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLXSERVE_")}
    out, log = folder / "out", folder / "log"
    command = [
        sys.executable,
        "-m",
        "mlxserve",
        "run",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        *words,
    ]
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env)
    try:
        greeting = re.compile(r"^mlxserve serves .* on (http://\S+)$", re.MULTILINE)
        until(lambda: process.poll() is not None or greeting.search(out.read_text()), START_S)
        found = greeting.search(out.read_text())
        assert found, log.read_text()
        yield Running(found[1], log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a Valkey server that runs."""
    with servers(tmp_path_factory.mktemp("valkey")) as make:
        server = make()
        server.start()
        yield server


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[list[Running]]:
    """Return two servers of one model, started side by side."""
    folder = tmp_path_factory.mktemp("pair")
    model = write_model(folder / "model")
    words = ("--model", str(model), "--served-model-name", "m", "--no-ssd")
    words += ("--plugins", "valkey-tier", "--valkey-url", server.url)
    words += ("--valkey-timeout-ms", str(PATIENCE_MS))
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        both = [stack.push(running(folder / name, *words)) for name in ("one", "other")]
        yield list(pool.map(lambda it: it.__enter__(), both))


def prompt(about: str, tokens: int = PREFIX) -> str:
    return "".join(f"{about} {at} is {at * 37 % 101}; " for at in range(tokens))[:tokens]


def tell(capsys: pytest.CaptureFixture[str], **seconds: float) -> None:
    figures = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    with capsys.disabled():
        print(f"\n{figures}")


def test_prefix_that_one_read_is_served_by_the_other(
    pair: list[Running], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    for it in pair:
        it.ask("warm up", 4)
    known = other.figure("blocks")
    cold = one.ask(prompt("ship"))
    assert not cold.cached
    until(lambda: other.figure("blocks") >= known + BLOCKS, 30)
    warm = other.ask(prompt("ship"))
    tell(capsys, cold=cold.ttft, from_valkey=warm.ttft)
    assert warm.cached == {"valkey": BLOCKS * BLOCK}
    assert warm.text == cold.text
    assert warm.ttft < cold.ttft / 4


def beside(server: Running, work: Callable[[], None]) -> Reply:
    """Return a story that the server tells while ``work`` is done."""
    enough = Event()
    with ThreadPoolExecutor(1) as pool:
        story = pool.submit(server.ask, "a long story: ", 5000, enough)
        try:
            work()
            assert not story.done(), "the story ended before"
        finally:
            enough.set()
        return story.result(120)


def test_streams_go_on_while_valkey_is_killed_and_comes_back(
    pair: list[Running], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    known = other.figure("blocks")
    texts = {name: one.ask(prompt(name, SHORT)).text for name in ("red", "blue", "green")}
    until(lambda: other.figure("blocks") >= known + 3 * SHORT_BLOCKS, 30)

    def calm() -> None:
        assert other.ask(prompt("green", SHORT)).cached == {"valkey": SHORT_BLOCKS * BLOCK}
        for name in ("pink", "teal"):
            other.ask(prompt(name, SHORT))

    def storm() -> None:
        assert other.ask(prompt("red", SHORT)).text == texts["red"]
        server.kill()
        lost = other.ask(prompt("blue", SHORT))  # as far as anybody has noticed, it is there
        assert (lost.text, lost.cached) == (texts["blue"], {})
        until(lambda: other.figure("available") == 0, 30)
        assert other.ask(prompt("white", SHORT)).cached == {}
        server.start()
        until(lambda: other.figure("available") == 1, 60)

    before, meanwhile = beside(other, calm), beside(other, storm)
    tell(capsys, longest_gap=meanwhile.longest_gap, undisturbed=before.longest_gap)
    length = min(len(meanwhile.text), len(before.text))
    assert length > 20
    assert meanwhile.text[:length] == before.text[:length]
    # What others' prompts cost is in both; a machine with other work to do may double it.
    assert meanwhile.longest_gap < before.longest_gap + max(STALL_S, before.longest_gap)
    until(lambda: one.figure("available") == 1, 60)
    new = one.ask(prompt("grey", SHORT))
    until(lambda: other.figure("blocks") >= SHORT_BLOCKS, 30)
    again = other.ask(prompt("grey", SHORT))
    assert (again.text, again.cached) == (new.text, {"valkey": SHORT_BLOCKS * BLOCK})
    for it in pair:
        assert '"level": "error"' not in it.log.read_text()


@pytest.fixture
def proxy(pair: list[Running], tmp_path: Path) -> Iterator[Running]:
    """Return HAProxy before the two, with the settings of ``examples/deploy/haproxy``."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("needs haproxy (Debian: apt-get install haproxy)")
    port, file = free_port(), tmp_path / "haproxy.cfg"
    text = CONFIG.read_text().replace("bind :8000", f"bind 127.0.0.1:{port}")
    lines = [line for line in text.splitlines() if not line.startswith("    server r")]
    lines += [f"    server r{n} {it.url.removeprefix('http://')}" for n, it in enumerate(pair)]
    file.write_text("\n".join([*lines, ""]))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield Running(f"http://127.0.0.1:{port}", tmp_path / "log")
    finally:
        process.kill()
        process.wait()


def test_conversation_that_moves_to_another_replica_takes_its_prefix_along(
    proxy: Running, pair: list[Running]
) -> None:
    first = proxy.ask(prompt("moving", SHORT), session="0")
    assert first.cached == {}
    at = {proxy.ask(f"who? {n}", 1, session=str(n)).by: str(n) for n in range(20)}
    (other,) = at.keys() - {first.by}
    until(lambda: all(it.figure("queued_blocks") == 0 for it in pair))
    again = proxy.ask(prompt("moving", SHORT), session="0")
    assert (again.by, again.cached) == (first.by, {"ram": SHORT_BLOCKS * BLOCK})
    moved = proxy.ask(prompt("moving", SHORT), session=at[other])
    assert (moved.by, moved.cached) == (other, {"valkey": SHORT_BLOCKS * BLOCK})
    assert moved.text == again.text == first.text
