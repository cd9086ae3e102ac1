"""How a server ends, and what the next one finds."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .live import LiveServer, until
from .streams import PROMPT, open_streams

Serve = Callable[..., LiveServer]


def test_sigterm_lets_eight_streams_finish_and_refuses_new_requests(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(8) as pool:
        readers = open_streams(server, pool, 8, max_tokens=500)
        server.signal(signal.SIGTERM)
        until(lambda: server.get("/readyz").status_code == 503, 2)
        late = server.post("/v1/completions", prompt="late", max_tokens=1)
        readings = [reader.result() for reader in readers]
    assert late.status_code == 503
    assert int(late.headers["Retry-After"]) > 0
    assert all(reading.done and reading.reasons == ["length"] for reading in readings)
    assert server.ended() == 0
    assert "Traceback" not in server.said


def test_sigterm_ends_streams_with_an_error_event_at_the_deadline(serve: Serve) -> None:
    server = serve("--shutdown-timeout-s", "0.3")
    with ThreadPoolExecutor(8) as pool:
        readers = open_streams(server, pool, 8, max_tokens=8000)
        server.signal(signal.SIGTERM)
        begun = time.monotonic()
        errors = [reader.result().error for reader in readers]
    assert server.ended() == 0
    assert time.monotonic() - begun < 8
    assert [error["code"] for error in errors if error] == ["shutting_down"] * 8
    assert "Traceback" not in server.said


@pytest.mark.alone
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_server_at_once(serve: Serve, first: signal.Signals) -> None:
    server = serve("--shutdown-timeout-s", "600")
    with ThreadPoolExecutor(2) as pool:
        readers = open_streams(server, pool, 2, max_tokens=8000)
        server.signal(first)
        until(lambda: server.get("/readyz").status_code == 503, 2)
        begun = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.ended() == 128 + signal.SIGINT
        assert time.monotonic() - begun < 2
        for reader in readers:
            assert isinstance(reader.exception(), httpx.RemoteProtocolError)  # cut off


def test_an_idle_server_ends_at_once_and_frees_its_port(serve: Serve) -> None:
    server = serve()
    port = server.port
    begun = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert time.monotonic() - begun < 5
    assert serve("--port", port).get("/readyz").status_code == 200


def test_a_killed_server_leaves_a_cache_that_the_next_one_uses(
    serve: Serve, tmp_path: Path
) -> None:
    flags = (
        "--ssd-cache-dir", str(tmp_path), "--ssd-policy", "write_through",
        "--ssd-flush-interval-s", "0.1", "--ssd-min-free-gb", "0",
    )  # fmt: skip

    def complete(server: LiveServer) -> tuple[str, int]:
        found = server.post("/v1/completions", prompt=PROMPT, temperature=0, max_tokens=20).json()
        cached = found["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found["choices"][0]["text"], cached

    first = serve(*flags)
    cold, none = complete(first)
    until(lambda: list(tmp_path.rglob("*.safetensors")), 20)
    first.signal(signal.SIGKILL)
    first.ended()
    second = serve(*flags)
    warm, cached = complete(second)
    assert (none, warm) == (0, cold)
    assert cached > 0
    assert second.metrics()["mlxserve_prefix_cache_hits_total{ssd}"] == cached


def test_sigterm_writes_what_memory_held(serve: Serve, tmp_path: Path) -> None:
    flags = ("--ssd-cache-dir", str(tmp_path), "--ssd-min-free-gb", "0")
    asked = {"prompt": PROMPT, "temperature": 0, "max_tokens": 4}
    first = serve(*flags)
    cold = first.post("/v1/completions", **asked).json()
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    warm = serve(*flags).post("/v1/completions", **asked).json()
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert warm["choices"][0]["text"] == cold["choices"][0]["text"]
