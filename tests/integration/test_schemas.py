"""Schemas of all kinds at temperature 1, eight at a time, with drafts: all that ends is valid."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator

from .live import LOOPBACK, LiveServer, serving
from .schemas import Schema, schemas

COUNT = 200 if os.environ.get("MLXSERVE_TEST_LONG") else 16
BATCH = 8
MOST = 200
PATIENCE = 900
LOOP = "Say yes again and again."
CLOSERS = '"}]'
"""What a model that speaks noise is told to prefer, or its texts would have no end."""

FLAGS = (
    *LOOPBACK, "--no-ssd", "--max-batch-size", str(BATCH),
    "--spec-decode", "ngram", "--no-spec-decode-dynamic", "--repetition-guard", "stop",
    "--request-timeout-s", str(PATIENCE),
)  # fmt: skip


@pytest.fixture(scope="module")
def drafting(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server that drafts always, and ends loops.

    Its model speaks noise, unless ``MLXSERVE_TEST_MODEL`` names another.
    """
    model = os.environ.get("MLXSERVE_TEST_MODEL", str(tiny_folder))
    with serving(tmp_path_factory.mktemp("drafting"), "--model", model, *FLAGS) as server:
        yield server


def token(server: LiveServer, text: str) -> str:
    """Return the first token of a text, as ``logit_bias`` names it."""
    found = server.post("/tokenize", prompt=text, add_special_tokens=False).json()["tokens"]
    return str(found[0])


def asked(at: int, name: str, schema: Schema, bias: dict[str, float]) -> dict[str, Any]:
    form = {"name": "reply", "schema": schema, "strict": True}
    return {
        "messages": [{"role": "user", "content": f"Give me a short example of {name}, as JSON."}],
        "response_format": {"type": "json_schema", "json_schema": form},
        "temperature": 1,
        "seed": at,
        "logit_bias": bias,
        "max_tokens": MOST,
    }


def answer(
    server: LiveServer, bias: dict[str, float], job: tuple[int, tuple[str, Schema]]
) -> tuple[str, str]:
    """Return the finish reason and what is wrong with a finished reply."""
    at, (name, schema) = job
    url = f"{server.url}/v1/chat/completions"
    reply = httpx.post(url, json=asked(at, name, schema, bias), timeout=PATIENCE)
    assert reply.status_code == 200, (name, reply.text)
    choice = reply.json()["choices"][0]
    if choice["finish_reason"] != "stop":
        return choice["finish_reason"], ""
    try:
        found = msgspec.json.decode(choice["message"]["content"])
    except msgspec.DecodeError as error:
        return "stop", f"{name}: {error}: {choice['message']['content']}"
    checked = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return "stop", "; ".join(f"{name}: {error.message}" for error in checked.iter_errors(found))


def test_every_finished_reply_is_what_its_schema_says(drafting: LiveServer) -> None:
    jobs = [*enumerate(schemas(COUNT))]
    assert len(jobs) == COUNT
    bias = {token(drafting, one): 4.0 for one in CLOSERS}
    with ThreadPoolExecutor(BATCH) as pool:
        found = list(pool.map(partial(answer, drafting, bias), jobs))
    reasons = [reason for reason, _ in found]
    drafted = drafting.metrics()["mlxserve_spec_decode_num_accepted_tokens_total"]
    print(f"{reasons.count('stop')} of {COUNT} finished; {drafted} drafts kept")  # noqa: T201
    assert [wrong for _, wrong in found if wrong] == []
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") > COUNT / 2
    assert drafted > 0
    drafting.rest()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_reply_that_loops_ends_with_stop(drafting: LiveServer, stream: bool) -> None:
    counted = "mlxserve_repetition_stops_total"
    before = drafting.metrics()[counted]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": LOOP}],
        "logit_bias": {token(drafting, "e"): 100},
        "temperature": 0,
        "max_tokens": 1800,
        "stream": stream,
    }
    url = f"{drafting.url}/v1/chat/completions"
    reply = httpx.post(url, json=body, timeout=PATIENCE)
    assert reply.status_code == 200, reply.text
    assert '"finish_reason":"stop"' in reply.text.replace(" ", "")
    assert drafting.metrics()[counted] == before + 1
    assert "a reply that repeats itself was ended" in drafting.said
