"""Each rank holds a reply to its form by itself, and all choose the same tokens."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .live import LiveServer, serving
from .ranked import flags, linux, ring, write_ranked
from .test_sdk_structured import FORM, TOOLS, check_person, check_place

pytestmark = [pytest.mark.integration, linux]
DRAFTS = ("--spec-decode", "ngram", "--no-spec-decode-dynamic")
JOBS: list[dict[str, Any]] = [
    {"response_format": FORM, "temperature": 0},
    {"response_format": FORM, "temperature": 1, "seed": 3},
    {"tools": TOOLS, "tool_choice": "required", "temperature": 1, "seed": 4},
    {"temperature": 0, "max_tokens": 16},
]


def answers(server: LiveServer) -> list[dict[str, Any]]:
    def message(job: dict[str, Any]) -> dict[str, Any]:
        asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 300} | job
        answer = server.post("/v1/chat/completions", **asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["choices"][0]["message"]
        for call in found.get("tool_calls", ()):
            del call["id"]
        return found

    with ThreadPoolExecutor(len(JOBS)) as pool:
        return list(pool.map(message, JOBS))


def test_two_ranks_say_in_a_form_what_one_says(tmp_path: Path) -> None:
    model = write_ranked(tmp_path / "model", "llama")
    found = []
    for name, words in (("one", ()), ("two", ring(2))):
        (tmp_path / name).mkdir()
        with serving(tmp_path / name, *flags(model, *words, *DRAFTS)) as server:
            found.append(answers(server))
    one, two = found
    assert two == one
    check_person(two[0]["content"])
    check_person(two[1]["content"])
    (call,) = two[2]["tool_calls"]
    check_place(call["function"]["arguments"])
