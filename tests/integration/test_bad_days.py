"""Bad days: what happens to a server, and what its clients see of it. One test for each.

What is wrong with a request is in ``test_bad_requests.py``, how a server ends in
``test_signals.py``.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from .folders import install
from .live import LOOPBACK, LiveServer, serving, until
from .streams import Reading, open_streams, streaming

Serve = Callable[..., LiveServer]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"prompt": "the other tokens", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
OTHERS = {"prompt": "somebody else", "max_tokens": 300, "temperature": 0, "ignore_eos": True}
TROUBLE = Path(__file__).with_name("trouble.py")
FLAGS = (
    "--plugins", "trouble", "--no-ssd", "--max-batch-size", "2",
    "--completion-batch-size", "2", "--max-queue-size", "2",
    "--watchdog-timeout-s", "0.5", "--liveness-timeout-s", "2.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def troubled(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server of two rows and a queue of two, with a plugin that brings trouble."""
    folder = tmp_path_factory.mktemp("troubled")
    site = install(TROUBLE, folder / "site", plugin="Trouble", name="trouble")
    path = os.pathsep.join((str(site), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    words = (*LOOPBACK, "--model", str(tiny_folder), *FLAGS)
    with serving(folder, *words, variables={"PYTHONPATH": path}) as server:
        yield server


@pytest.fixture(autouse=True)
def _serves_afterwards(troubled: LiveServer) -> Iterator[None]:
    yield
    troubled.rest()
    until(lambda: troubled.get("/readyz").status_code == 200, 5)
    assert troubled.post(TEXT, **SHORT).status_code == 200


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the error of an answer, which has every part that clients look for."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "trouble" not in error["message"]
    return error


def come_back(answer: httpx.Response, status: int, code: str) -> None:
    """Check a refusal that is worth another try."""
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert int(answer.headers["Retry-After"]) >= 1


def fail(server: LiveServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the error that a request ends with, be it the answer or the stream's last event."""
    asked = {"stream": True, "max_tokens": 50, "ignore_eos": True} | body
    with httpx.stream("POST", server.url + path, json=asked, timeout=60) as answer:
        if answer.status_code != 200:
            answer.read()
            assert answer.status_code == 500
            return error_of(answer)
        reading = Reading().read(answer.iter_lines())
    assert not reading.done
    assert reading.error is not None
    assert set(reading.error) == {"message", "type", "param", "code"}
    assert "trouble" not in reading.error["message"]
    return reading.error


@contextmanager
def two_rows(server: LiveServer) -> Iterator[Callable[[], None]]:
    """Take both rows with streams that say something; yield what closes them."""
    with ExitStack() as stack:
        asked = {"ignore_eos": True, "max_tokens": 8000}
        streams = [
            stack.enter_context(streaming(server, prompt=prompt, **asked)) for prompt in ("a", "b")
        ]
        for lines in streams:  # kept: who forgets a stream's lines closes it
            next(lines)
        yield stack.close


def test_no_or_wrong_key(serve: Serve) -> None:
    key = "s3cret-key-of-this-test"
    server = serve("--api-key", key, "--metrics-auth")
    paths = ("/v1/models", "/v1/cache/stats", "/dashboard/data", "/metrics")
    for sent in ({}, {"Authorization": "Bearer wr0ng-key"}):
        answers = [httpx.get(server.url + path, headers=sent) for path in paths]
        answers.append(httpx.post(server.url + TEXT, json=SHORT, headers=sent))
        for answer in answers:
            assert answer.status_code == 401, answer.url
            assert error_of(answer)["type"] == "authentication_error"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert server.get("/readyz").status_code == 200
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="wr0ng-key", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with OpenAI(base_url=f"{server.url}/v1", api_key=key) as friend:
        assert friend.completions.create(model=friend.models.list().data[0].id, prompt="a").choices
    assert "s3cret" not in server.said
    assert "wr0ng" not in server.said


def test_too_many_requests_and_queue_full(troubled: LiveServer, serve: Serve) -> None:
    rejected = "mlxserve_requests_rejected_total{,queue_full,429}"
    before = troubled.metrics().get(rejected, 0)
    with ThreadPoolExecutor(2) as pool, two_rows(troubled) as leave:
        waiting = [pool.submit(troubled.post, TEXT, **SHORT) for _ in range(2)]
        until(lambda: troubled.metrics()["queued_requests"] == 2, 10)
        come_back(troubled.post(TEXT, **SHORT), 429, "queue_full")
        assert troubled.metrics()[rejected] == before + 1
        leave()
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    alone = serve("--max-concurrent-requests", "1")
    with streaming(alone, prompt="a", ignore_eos=True, max_tokens=8000) as lines:
        next(lines)
        come_back(alone.post(TEXT, **SHORT), 429, "too_many_requests")


def test_memory_pressure_and_draining(serve: Serve) -> None:
    server = serve("--num-blocks", "64", "--shutdown-timeout-s", "20")
    with ThreadPoolExecutor(1) as pool:
        (reader,) = open_streams(server, pool, 1, max_tokens=600)
        come_back(server.post(TEXT, prompt="a" * 250, max_tokens=200), 503, "memory_pressure")
        server.signal(signal.SIGTERM)
        until(lambda: server.get("/readyz").status_code == 503, 2)
        come_back(server.post(TEXT, **SHORT), 503, "shutting_down")
        assert server.get("/health").json()["status"] == "shutting_down"
        assert reader.result().done
    assert server.ended() == 0


def test_client_leaves(troubled: LiveServer) -> None:
    with ThreadPoolExecutor(1) as pool, two_rows(troubled) as leave:
        waiting = pool.submit(httpx.post, troubled.url + TEXT, json=SHORT, timeout=1.0)
        until(lambda: troubled.metrics()["queued_requests"] == 1, 10)
        assert isinstance(waiting.exception(), httpx.ReadTimeout)
        until(lambda: troubled.metrics()["queued_requests"] == 0, 2)  # its entry in the queue
        assert troubled.metrics()["active_sequences"] == 2
        leave()
        assert troubled.rest() < 2  # their rows and blocks


EXCEPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "mask": (TEXT, {"prompt": "a", "response_format": {"type": "mask"}}),
    "processor": (TEXT, {"prompt": "a", "response_format": {"type": "processor"}}),
    "detokenizer": (
        TEXT,
        {
            "prompt": "a",
            "response_format": {"type": "detokenizer"},
            "skip_special_tokens": False,
        },
    ),
    "plugin hook": (TEXT, {"prompt": "a", "response_format": {"type": "hook"}}),
}


@pytest.fixture(scope="module")
def alone(troubled: LiveServer) -> str:
    """Return what somebody else is told when nobody is in trouble."""
    return str(troubled.post(TEXT, **OTHERS).json()["choices"][0]["text"])


@pytest.mark.parametrize(("path", "body"), EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_exception_in_one_row(
    troubled: LiveServer, alone: str, path: str, body: dict[str, Any]
) -> None:
    with streaming(troubled, **OTHERS) as lines:
        somebody_else = Reading().read(lines, most=1)
        error = fail(troubled, path, body)
        somebody_else.read(lines)
    assert error["type"] == "server_error"
    assert (somebody_else.text, somebody_else.reasons) == (alone, ["length"])
    assert somebody_else.done


def test_exception_in_a_plugin_hook_is_counted_and_an_event_that_fails_hurts_nobody(
    troubled: LiveServer,
) -> None:
    asked = SHORT | {"response_format": {"type": "told"}}
    name = "mlxserve_plugin_errors_total{%s,trouble}"
    before = troubled.metrics()
    answer = troubled.post(TEXT, **asked)
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    fail(troubled, *EXCEPTIONS["plugin hook"])
    after = troubled.metrics()
    for hook in ("first_token", "make_constraint"):
        assert after[name % hook] == before.get(name % hook, 0) + 1


FAILURES = {
    "prefill": ("prefill", 500, None),
    "decode": ("decode", 500, None),
    "out of memory": ("memory", 503, "out_of_memory"),
}


@pytest.mark.parametrize(("kind", "status", "code"), FAILURES.values(), ids=FAILURES)
def test_exception_in_the_forward_pass_and_out_of_memory(
    troubled: LiveServer, kind: str, status: int, code: str | None
) -> None:
    well = troubled.post(TEXT, **SHORT).json()["choices"][0]["text"]
    troubled.post(f"/trouble/{kind}/3")
    for failed in range(3):
        assert troubled.get("/readyz").status_code == 200, f"after {failed} failures"
        answer = troubled.post(TEXT, **SHORT, seed=failed)
        assert answer.status_code == status
        assert error_of(answer)["code"] == code
        assert ("Retry-After" in answer.headers) == (status == 503)
    until(lambda: troubled.get("/readyz").status_code == 503, 5)
    assert troubled.get("/readyz").json()["reasons"] == ["3 steps failed in a row"]
    assert troubled.get("/livez").status_code == 200
    troubled.rest()
    assert troubled.post(TEXT, **SHORT).json()["choices"][0]["text"] == well
    until(lambda: troubled.get("/readyz").status_code == 200, 5)


def test_a_stuck_step(troubled: LiveServer) -> None:
    troubled.post("/trouble/stuck/1")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(troubled.post, TEXT, **SHORT)
        until(lambda: troubled.get("/readyz").status_code == 503, 5)
        (reason,) = troubled.get("/readyz").json()["reasons"]
        assert reason.startswith("one step has been running for")
        assert troubled.get("/livez").status_code == 200  # a supervisor waits longer
        until(lambda: troubled.get("/livez").status_code == 503, 5)
        assert troubled.get("/metrics").status_code == 200
        troubled.post("/trouble/none/0")
        assert asked.result().status_code == 200
    until(lambda: troubled.get("/livez").status_code == 200, 5)


def test_a_parser_that_raises_leaves_the_reply_as_plain_text(troubled: LiveServer) -> None:
    tools = [{"type": "function", "function": {"name": "parser"}}]
    asked = {"messages": HELLO, "tools": tools, "max_tokens": 20, "ignore_eos": True}
    (choice,) = troubled.post(CHAT, **asked).json()["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    named = 'mlxserve_plugin_errors_total{hook="make_output_parser",plugin="trouble"}'
    assert named in troubled.get("/metrics").text
