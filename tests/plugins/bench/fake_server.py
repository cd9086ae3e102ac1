"""A server with OpenAI's API and no model: words are tokens, and what it has seen comes sooner.

It keeps what it has seen in the folder of ``--ssd-cache-dir``, if there is one.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

BLOCK = 4
COLD_S = 0.04
KNOWN = {
    "model", "max_tokens", "temperature", "stream", "stream_options", "prompt", "messages",
    "top_p", "seed", "logit_bias", "stop", "tools", "response_format", "echo", "logprobs",
    "cache_salt",
}  # fmt: skip


@define
class Behaviour:
    """What the server does.

    Attributes:
        whole: Whether it takes ``ignore_eos``.
        checks: Whether it refuses what is malformed.
        breaks: Whether a stream ends with an error.
        reply: A word of its replies.
        interval: Seconds between words.
        folder: Where it keeps what it has seen.
        leaves_behind: Whether a row stays in use when nobody is served.
        schemas: Whether it takes ``response_format``.
        bits: Of its KV: the fewer, the less sure it is of what it says.
        bodies: What it was sent.
        seen: Beginnings of prompts that it was sent.
    """

    whole: bool = True
    checks: bool = True
    breaks: bool = False
    reply: str = "word"
    interval: float = 0.0
    folder: Path | None = None
    leaves_behind: bool = False
    schemas: bool = True
    bits: int = 16
    bodies: list[Mapping[str, Any]] = field(factory=list)
    seen: set[str] = field(factory=set)

    def refusal(self, body: Mapping[str, Any]) -> str | None:
        known = KNOWN | ({"ignore_eos"} if self.whole else set())
        if unknown := sorted(set(body) - known):
            return f"unknown field {unknown[0]}"
        if not self.schemas and "response_format" in body:
            return "response_format needs what is not installed"
        if not self.checks:
            return None
        faulty = (
            not isinstance(body["temperature"], float | int)
            or body["temperature"] < 0
            or not isinstance(body["max_tokens"], int)
            or not isinstance(body.get("stream_options", {}), dict)
            or "logit_bias" in body
        )
        return "malformed" if faulty else None

    def cached(self, words: list[str]) -> int:
        """Return how many words are known from the beginning on, and remember all."""
        if self.folder and (self.folder / "seen").is_file():
            self.seen |= set((self.folder / "seen").read_text().splitlines())
        starts = [" ".join(words[:at]) for at in range(BLOCK, len(words) + 1, BLOCK)]
        known = sum(start in self.seen for start in starts) * BLOCK
        self.seen |= set(starts)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "seen").write_text("\n".join(self.seen))
        return known


class Handler(BaseHTTPRequestHandler):
    behaviour: ClassVar[Behaviour]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self._metrics()
        return self._answer(200, {"data": [{"id": "fake"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.behaviour.bodies.append(body)
        if self.path == "/tokenize":
            return self._answer(200, {"tokens": [len(word) for word in body["prompt"].split()]})
        if not body.get("stream"):
            return self._answer(200, scored(body, self.behaviour.bits))
        if refusal := self.behaviour.refusal(body):
            return self._answer(400, {"error": {"message": refusal}})
        return self._reply(body)

    def _metrics(self) -> None:
        gauges = {
            "active_sequences": int(self.behaviour.leaves_behind),
            "queued_requests": 0,
            "used_blocks": int(self.behaviour.leaves_behind),
            "mlxserve_cached_blocks": len(self.behaviour.seen),
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f"{name} {value}\n" for name, value in gauges.items()).encode())

    def _reply(self, body: Mapping[str, Any]) -> None:
        prompt = body.get("prompt") or " ".join(one["content"] for one in body["messages"])
        words = prompt.split()
        cached = self.behaviour.cached(words)
        time.sleep(COLD_S * (1 - cached / len(words)))
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):  # the client has left
            self._stream("messages" in body, body["max_tokens"], len(words), cached)

    def _stream(self, chat: bool, tokens: int, prompt: int, cached: int) -> None:
        self._event({"choices": [{"delta": {"role": "assistant"}}]} if chat else {})
        for _ in range(tokens):
            piece = f" {self.behaviour.reply}"
            text = {"delta": {"content": piece}} if chat else {"text": piece}
            self._event({"choices": [text]})
            time.sleep(self.behaviour.interval)
        if self.behaviour.breaks:
            self._event({"error": {"message": "it broke"}})
            return
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
        self._event({"choices": [], "usage": {**usage, "prompt_tokens_details": details}})
        self.wfile.write(b": a comment\n\ndata: [DONE]\n\n")

    def _event(self, event: Mapping[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


def scored(body: Mapping[str, Any], bits: int) -> Mapping[str, Any]:
    """Answer with log-probabilities: two tokens, the second gains as the bits get fewer."""
    likely = {16: 0.75, 8: 0.7}.get(bits, 0.4)
    top = {"one": math.log(likely), "two": math.log(1.0 - likely)}
    count = len(body["prompt"]) if body.get("echo") else body["max_tokens"]
    tokens = ["one"] * count
    if bits < 8 and not body.get("echo"):
        tokens[count // 2] = "two"
    logprobs = {
        "tokens": tokens,
        "token_logprobs": [None, *[top["one"]] * (count - 1)],
        "top_logprobs": [None, *[top] * (count - 1)],
    }
    return {"choices": [{"logprobs": logprobs}]}


class Listening(ThreadingHTTPServer):
    request_queue_size = 64


@contextmanager
def serving(behaviour: Behaviour, port: int = 0) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    bound = type("Bound", (Handler,), {"behaviour": behaviour})
    with Listening(("127.0.0.1", port), bound) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def main(words: list[str]) -> None:
    """Serve until SIGTERM."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    if "--fail" in given:
        sys.exit("mlxserve: it cannot start")
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    folder = Path(given["--ssd-cache-dir"]) if "--ssd-cache-dir" in given else None
    interval = float(given.get("--interval", 0.005))
    bits = int(given.get("--kv-bits", 16))
    behaviour = Behaviour(folder=folder, interval=interval, bits=bits)
    with serving(behaviour, int(given["--port"])):
        done.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
