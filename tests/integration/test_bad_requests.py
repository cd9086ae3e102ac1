"""What is wrong with a request is said in OpenAI's shape, and the server goes on."""

import json
import select
import socket
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from .live import LiveServer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
HUGE = 10**30

Case = tuple[str, dict[str, Any], int, str | None]
CASES: dict[str, Case] = {
    "unknown model": (TEXT, {"prompt": "a", "model": "gpt-9"}, 404, "model"),
    "field that is not served": (TEXT, {"prompt": "a", "suffix": "b"}, 400, "suffix"),
    "no prompt": (TEXT, {}, 400, "prompt"),
    "empty prompt": (TEXT, {"prompt": ""}, 400, "prompt"),
    "empty list of prompts": (TEXT, {"prompt": []}, 400, "prompt"),
    "empty list of tokens": (TEXT, {"prompt": [[]]}, 400, "prompt"),
    "token that does not exist": (TEXT, {"prompt": [70000]}, 400, "prompt"),
    "negative token": (TEXT, {"prompt": [-1]}, 400, "prompt[0]"),
    "long prompt": (TEXT, {"prompt": "zq" * 4000}, 400, "prompt"),
    "long conversation": (CHAT, {"messages": [*HELLO, *HELLO] * 400}, 400, "messages"),
    "no messages": (CHAT, {"messages": []}, 400, "messages"),
    "no role": (CHAT, {"messages": [{"content": "a"}]}, 400, None),
    "template that raises": (
        CHAT, {"messages": [{"role": "user", "content": "raise"}]}, 400, "messages",
    ),
    "text for a number": (TEXT, {"prompt": "a", "max_tokens": "b"}, 400, "max_tokens"),
    "no tokens": (TEXT, {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    "negative temperature": (TEXT, {"prompt": "a", "temperature": -1}, 400, "temperature"),
    "huge temperature": (TEXT, {"prompt": "a", "temperature": 1e300}, 400, "temperature"),
    "huge penalty": (TEXT, {"prompt": "a", "presence_penalty": 1e9}, 400, "presence_penalty"),
    "no choices": (TEXT, {"prompt": "a", "n": 0}, 400, "n"),
    "huge choices": (TEXT, {"prompt": "a", "n": 10**9}, 400, "n"),
    "huge bias": (TEXT, {"prompt": "a", "logit_bias": {"1": 1e9}}, 400, None),
    "bias of no token": (TEXT, {"prompt": "a", "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    "too many stops": (TEXT, {"prompt": "a", "stop": ["x"] * 99}, 400, "stop"),
    "huge logprobs": (TEXT, {"prompt": "a", "logprobs": 21}, 400, "logprobs"),
    "large body": (TEXT, {"prompt": "a" * 300_000}, 413, None),
}  # fmt: skip

SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "unknown field": (TEXT, {"prompt": "a", "tempreature": 1}),
    "negative tokens": (TEXT, {"prompt": "a", "max_tokens": -1}),
    "huge tokens": (TEXT, {"prompt": "a", "max_tokens": HUGE}),
    "more tokens than fit": (CHAT, {"messages": HELLO, "max_tokens": 32_000}),
    "top_p of nothing": (TEXT, {"prompt": "a", "top_p": 0}),
    "negative top_k": (TEXT, {"prompt": "a", "top_k": -1}),
    "huge seed": (TEXT, {"prompt": "a", "seed": HUGE}),
    "empty stop": (TEXT, {"prompt": "a", "stop": ""}),
    "fractions": (TEXT, {"prompt": "a", "max_tokens": 2.0, "top_k": 4.0, "seed": 1.0}),
    "unknown key of a message": (CHAT, {"messages": [{**HELLO[0], "cache_control": {}}]}),
    "content of null": (CHAT, {"messages": [{"role": "system", "content": None}, *HELLO]}),
}

RAW: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"hello", 400),
    "half a body": (b'{"prompt": "a', 400),
    "a list": (b"[1]", 400),
    "NaN as a bias": (b'{"prompt": "a", "logit_bias": {"1": NaN}}', 400),
    "Infinity as a temperature": (b'{"prompt": "a", "temperature": Infinity}', 400),
    "a key that occurs twice": (b'{"prompt": "a", "prompt": "b"}', 400),
    "bytes that are no text": (b'{"prompt": "\xff\xfe"}', 400),
    "half a character": (b'{"prompt": "\\ud800"}', 400),
    "deep nesting": (b'{"metadata": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", 400),
}


@pytest.fixture(autouse=True)
def _serves_afterwards(tiny: LiveServer) -> Any:
    yield
    assert tiny.post(TEXT, prompt="a", max_tokens=1).status_code == 200


def shaped(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in answer.text
    return dict(error)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("path", "body", "status", "param"), CASES.values(), ids=CASES)
def test_wrong_types_unknown_model_and_impossible_parameters_are_named(
    tiny: LiveServer, path: str, body: dict[str, Any], status: int, param: str | None, stream: bool
) -> None:
    answer = tiny.post(path, **body, stream=stream)
    assert answer.status_code == status, answer.text
    error = shaped(answer)
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(("path", "body"), SERVED.values(), ids=SERVED)
def test_what_other_servers_take_is_served_and_counted(
    tiny: LiveServer, path: str, body: dict[str, Any]
) -> None:
    answer = tiny.post(path, **body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    if body.get("max_tokens", 0) > 1000:
        assert choice["finish_reason"] in ("length", "stop")
        clamped = f"mlxserve_request_fields_adjusted_total{{{'max_tokens,clamped'}"
        found = {name: count for name, count in tiny.metrics().items() if name.startswith(clamped)}
        assert sum(found.values()) >= 1


def test_a_refusal_is_one_line_and_one_count_without_a_word_of_the_request(
    tiny: LiveServer,
) -> None:
    def counted() -> float:
        return tiny.metrics().get("mlxserve_requests_rejected_total{min_p,invalid_value,400}", 0)

    before = counted()
    headers = {"X-Request-Id": "find-me"}
    body = {"prompt": "hunter2", "min_p": 7}
    answer = httpx.post(tiny.url + TEXT, json=body, headers=headers, timeout=30)
    assert (answer.status_code, answer.headers["x-request-id"]) == (400, "find-me")
    assert counted() == before + 1
    (line,) = (line for line in tiny.said.splitlines() if "find-me" in line)
    told = json.loads(line)
    assert (told["event"], told["status"], told["field"]) == ("request refused", 400, "min_p")
    assert (told["method"], told["path"], told["reason"]) == ("POST", TEXT, "invalid_value")
    assert "hunter2" not in tiny.said


@pytest.mark.parametrize(("body", "status"), RAW.values(), ids=RAW)
def test_malformed_json_is_refused(tiny: LiveServer, body: bytes, status: int) -> None:
    answer = httpx.post(tiny.url + TEXT, content=body, timeout=30)
    assert answer.status_code == status, answer.text
    shaped(answer)


def test_a_chunked_body_without_an_end_in_sight_is_refused_early(tiny: LiveServer) -> None:
    head = f"POST {TEXT} HTTP/1.1\r\nHost: tiny\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", int(tiny.port)), timeout=30) as wire:
        wire.sendall(head.encode())
        while sent < 100:
            sent += 1
            wire.sendall(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
            if select.select([wire], [], [], 0.02)[0]:
                break
        assert wire.recv(64).startswith(b"HTTP/1.1 413")
    assert 20 <= sent < 60  # the limit is 200,000 bytes


def test_an_unknown_path_and_a_wrong_method_are_told(tiny: LiveServer) -> None:
    for path in ("/v1/nothing", "/nothing"):
        answer = tiny.get(path)
        assert (answer.status_code, shaped(answer)["code"]) == (404, "not_found")
    for method, path in (("GET", TEXT), ("POST", "/metrics"), ("DELETE", "/dashboard/data")):
        answer = httpx.request(method, tiny.url + path)
        assert (answer.status_code, shaped(answer)["code"]) == (405, "method_not_allowed")


RAISES: dict[str, tuple[Callable[[OpenAI], object], type[openai.APIStatusError]]] = {
    "unknown model": (
        lambda client: client.completions.create(model="gpt-9", prompt="a"),
        openai.NotFoundError,
    ),
    "bad parameter": (
        lambda client: client.completions.create(model="tiny", prompt="a", temperature=-1),
        openai.BadRequestError,
    ),
    "unknown model to look up": (
        lambda client: client.models.retrieve("gpt-9"),
        openai.NotFoundError,
    ),
}


@pytest.mark.parametrize(("ask", "error"), RAISES.values(), ids=RAISES)
def test_the_sdk_raises_its_own_error(
    tiny: LiveServer, ask: Callable[[OpenAI], object], error: type[openai.APIStatusError]
) -> None:
    with (
        OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(error) as caught,
    ):
        ask(client)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
