"""HTTP in the forms that clients, proxies and scripts send it, against a live server."""

import json
import socket

import httpx
import pytest

from .live import LiveServer

MARK = b"\xef\xbb\xbf"
BODY = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 2}).encode()


def exchange(server: LiveServer, request: bytes, *, half_closed: bool = False) -> bytes:
    """Return all that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", int(server.port)), timeout=60) as connection:
        connection.sendall(request)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def post(target: str, body: bytes, *more: str) -> bytes:
    """Return a request with a body."""
    head = [f"POST {target} HTTP/1.1", "Host: here", "Content-Type: application/json", *more]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def test_head_is_answered_at_every_path_that_answers_get(tiny: LiveServer) -> None:
    described = tiny.get("/schema/openapi.json").json()["paths"]
    paths = ["/", "/schema", *(path for path, item in described.items() if "get" in item)]
    paths = [path for path in paths if "{" not in path]
    assert {"/v1/models", "/metrics", "/readyz"} <= set(paths)
    for path in paths:
        head, got = httpx.head(tiny.url + path, timeout=30), tiny.get(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["content-type"] == got.headers["content-type"], path


@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_client_gets_its_whole_reply(tiny: LiveServer, stream: bool) -> None:
    body = json.dumps(json.loads(BODY) | {"stream": stream}).encode()
    answer = exchange(tiny, post("/v1/completions", body), half_closed=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (b"[DONE]" if stream else b'"usage"') in answer
    tiny.rest()


def test_a_target_in_absolute_form_is_served(tiny: LiveServer) -> None:
    request = post(f"{tiny.url}/v1/completions", BODY, "Connection: close")
    assert exchange(tiny, request).startswith(b"HTTP/1.1 200 ")


def test_a_byte_order_mark_before_a_body_is_passed_over(tiny: LiveServer) -> None:
    answer = exchange(tiny, post("/v1/completions", MARK + BODY, "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/metrics", "/"])
def test_every_response_has_its_requests_id(tiny: LiveServer, path: str) -> None:
    answer = httpx.get(tiny.url + path, headers={"X-Request-Id": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert tiny.get(path).headers["x-request-id"] != tiny.get(path).headers["x-request-id"]


def test_metrics_name_their_charset_once(tiny: LiveServer) -> None:
    assert tiny.get("/metrics").headers["content-type"].count("charset") == 1
