"""Streams as they come over the wire, without a client library that mends anything."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from attrs import define, field

from .live import LiveServer

PROMPT = "the other tokens, two tokens; one token and the others: " * 6


@define
class Reading:
    """What came of one stream.

    Attributes:
        chunks: The events, decoded.
        done: Whether the last one was ``[DONE]``.
    """

    chunks: list[dict[str, Any]] = field(factory=list)
    done: bool = False

    @property
    def text(self) -> str:
        """The text of a completion."""
        return "".join(c["choices"][0]["text"] for c in self.chunks if c.get("choices"))

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that ended it."""
        return next((c["error"] for c in self.chunks if "error" in c), None)

    @property
    def reasons(self) -> list[str]:
        """Why choices ended."""
        found = [choice for c in self.chunks for choice in c.get("choices", ())]
        return [choice["finish_reason"] for choice in found if choice["finish_reason"]]

    def read(self, lines: Iterator[str], most: int | None = None) -> "Reading":
        """Take events from ``lines``, all or until there are ``most``."""
        for line in lines:
            if line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                self.chunks.append(json.loads(line.removeprefix("data: ")))
            if most is not None and len(self.chunks) >= most:
                break
        return self


@contextmanager
def streaming(server: LiveServer, **body: object) -> Iterator[Iterator[str]]:
    """Open a completion's stream and yield its lines."""
    url, asked = f"{server.url}/v1/completions", {"stream": True, "temperature": 0} | body
    with httpx.stream("POST", url, json=asked, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        yield answer.iter_lines()


def open_streams(
    server: LiveServer, pool: ThreadPoolExecutor, count: int, **body: object
) -> "list[Future[Reading]]":
    """Start streams and return when every one of them has said something."""
    begun = [threading.Event() for _ in range(count)]

    def read(at: int) -> Reading:
        reading = Reading()
        prompt = f"{at} {PROMPT}"
        with streaming(server, prompt=prompt, ignore_eos=True, **body) as lines:
            reading.read(lines, most=1)
            begun[at].set()
            return reading.read(lines)

    readers = [pool.submit(read, at) for at in range(count)]
    for event in begun:
        assert event.wait(30)
    return readers
