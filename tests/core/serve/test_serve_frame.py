"""What holds for every exchange: HEAD, ids, marks, absolute targets, half-closed clients."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Request, get, post
from litestar.testing import TestClient

from mlxserve.serve.address import address_of, listen
from mlxserve.serve.app import build_app
from mlxserve.serve.frame import Unmarked, origin_form
from mlxserve.serve.lifecycle import make_server
from mlxserve.serve.protocol import HALF_CLOSED_S
from mlxserve_hookspecs import hookimpl
from mlxserve_hookspecs.serving import REPLY_HEADERS

from .conftest import FakeService, Made, Pages

MARK = b"\xef\xbb\xbf"


class Odd:
    """Serves a slow page, one that names its own id, and one that adds a header."""

    def __init__(self) -> None:
        self.left: list[str] = []

    @hookimpl
    def routes(self) -> list[Any]:
        @post("/slow", status_code=200)
        async def slow(request: Request[Any, Any, Any]) -> dict[str, Any]:
            body = await request.json()
            message = await request.receive()
            self.left.append(message["type"])
            return {"heard": body}

        @get("/patient")
        async def patient() -> str:
            await asyncio.sleep(0.3)
            return "here"

        @get("/added")
        async def added(request: Request[Any, Any, Any]) -> str:
            request.scope["state"][REPLY_HEADERS]["X-Note"] = "told"
            return "x"

        return [slow, patient, added]


@pytest.fixture
def client(make_resolved: Made, service: FakeService) -> Iterator[TestClient[Any]]:
    service.loaded.set()
    app = build_app(make_resolved(Pages(), Odd()), service)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_head_is_answered_wherever_get_is_and_has_its_headers_only(client: TestClient[Any]) -> None:
    got, head = client.get("/card"), client.head("/card")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/nowhere").status_code == 404
    refused = client.head("/v1/chat/completions")
    assert (refused.status_code, refused.content) == (405, b"")


def test_allow_names_head_where_it_names_get(client: TestClient[Any]) -> None:
    allowed = client.post("/card").headers["allow"].replace(" ", "").split(",")
    assert {"GET", "HEAD"} <= set(allowed)
    assert "HEAD" not in client.get("/v1/chat/completions").headers["allow"]


@pytest.mark.parametrize("path", ["/card", "/nowhere", "/broken"])
def test_a_request_id_is_echoed_on_every_response(client: TestClient[Any], path: str) -> None:
    answer = client.get(path, headers={"X-Request-Id": "abc-7"})
    assert answer.headers.get_list("x-request-id") == ["abc-7"]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "two words"])
def test_a_request_without_a_usable_id_gets_one_of_its_own(
    client: TestClient[Any], given: str | None
) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    first, second = (client.get("/card", headers=headers) for _ in range(2))
    ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
    assert len(ids) == 2
    assert given not in ids


def test_a_route_adds_headers_to_its_reply(client: TestClient[Any]) -> None:
    assert client.get("/added").headers["x-note"] == "told"
    assert "x-note" not in client.get("/card").headers


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_a_byte_order_mark_before_a_body_is_passed_over(
    client: TestClient[Any], content_type: str
) -> None:
    body = MARK + b'{"a": "\xef\xbb\xbf"}'
    headers = {"Content-Type": content_type}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.json() == {"heard": {"a": "\ufeff"}}


async def _body(pieces: list[bytes]) -> bytes:
    messages = [
        {"type": "http.request", "body": piece, "more_body": at + 1 < len(pieces)}
        for at, piece in enumerate(pieces)
    ]

    async def receive() -> Any:
        return messages.pop(0)

    unmarked, body, more = Unmarked(receive), b"", True
    while more:
        message = await unmarked()
        body, more = body + message["body"], message["more_body"]
    return body


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"\xef", b"\xbb\xbf{}"], b"{}"),
        ([b"", b"\xef\xbb", b"\xbf", b"{}"], b"{}"),
        ([b"\xef\xbb", b"\xbe{}"], b"\xef\xbb\xbe{}"),
        ([b"{", b"}"], b"{}"),
        ([b""], b""),
    ],
    ids=["split", "in crumbs", "another character", "none", "empty"],
)
def test_a_mark_is_passed_over_however_the_body_comes(pieces: list[bytes], expected: bytes) -> None:
    assert asyncio.run(_body(pieces)) == expected


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://127.0.0.1:80/v1/models", "/v1/models"),
        ("HTTPS://host/a/b", "/a/b"),
        ("http://host", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/http://x", "/v1/models/http://x"),
        ("*", "*"),
    ],
)
def test_a_target_in_absolute_form_is_its_path(target: str, path: str) -> None:
    assert origin_form(target) == path


# -- over a socket ---------------------------------------------------------------------------


@pytest.fixture
def odd() -> Odd:
    return Odd()


@pytest.fixture
def port(make_resolved: Made, service: FakeService, odd: Odd) -> Iterator[int]:
    service.loaded.set()
    server = make_server(build_app(make_resolved(Pages(), odd), service))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:  # or a close that comes later would seem to come at once
            time.sleep(0.01)
        try:
            yield address_of(listener).port
        finally:
            server.should_exit = True
            thread.join(10)


def talk(port: int, sent: bytes, *, half_close_after: float | None = None) -> bytes:
    """Send, close our side if asked to, and return all that comes back until theirs closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        if half_close_after is not None:
            time.sleep(half_close_after)
            connection.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def test_a_target_in_absolute_form_is_served(port: int) -> None:
    request = (
        f"GET http://127.0.0.1:{port}/card?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    answer = talk(port, request.encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"tiny's model")


def test_head_over_a_socket_leaves_the_connection_usable(port: int) -> None:
    head = b"HEAD /card HTTP/1.1\r\nHost: x\r\n\r\n"
    get = b"GET /card HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = talk(port, head + get)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"tiny's model") == 1


def test_a_client_that_closes_its_side_after_a_request_gets_its_answer(port: int) -> None:
    answer = talk(port, b"GET /patient HTTP/1.1\r\nHost: x\r\n\r\n", half_close_after=0)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"here")


def test_a_client_that_closes_within_its_body_gets_none(port: int) -> None:
    head = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    answer = talk(port, head + b"Content-Length: 99\r\n\r\n{", half_close_after=0)
    assert b"200" not in answer.split(b"\r\n")[0]
    assert time.monotonic() - began < 5


def test_a_client_that_closes_later_has_left(port: int, odd: Odd) -> None:
    body = json.dumps({"a": 1}).encode()
    head = f"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert talk(port, head + body, half_close_after=HALF_CLOSED_S * 4) == b""
    deadline = time.monotonic() + 5
    while not odd.left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert odd.left == ["http.disconnect"]
