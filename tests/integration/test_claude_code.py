"""Claude Code: its recorded requests on a real engine, and itself where it is installed."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..plugins.anthropic.events import events_in, message_of
from ..plugins.anthropic.recorded import recorded
from .conftest import Serve
from .live import LiveServer

CLAUDE = shutil.which("claude")
BLOCK = 16


def sent(server: LiveServer, one: Any) -> dict[str, Any]:
    body = {**one.body, "max_tokens": 4}
    url = server.url + one.path
    answer = httpx.post(url, json=body, headers=one.headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return message_of(events_in(answer.text))


def test_recorded_turns_compute_only_what_is_new(tiny: LiveServer) -> None:
    _, *turns = recorded("tiny")
    tiny.post("/v1/cache/clear").raise_for_status()
    usages = [sent(tiny, one)["usage"] for one in turns]
    assert usages[0]["cache_read_input_tokens"] == 0
    for before, after in pairwise(usages):
        known = before["input_tokens"] + before["cache_read_input_tokens"]
        assert after["cache_read_input_tokens"] >= known - 2 * BLOCK


def test_another_session_finds_the_first_ones_prompt(tiny: LiveServer) -> None:
    *_, last = recorded("tiny")
    sent(tiny, last)
    last.body["system"][0]["text"] = "x-anthropic-billing-header: cc_version=9.9.9; cch=12345;"
    usage = sent(tiny, last)["usage"]
    assert usage["input_tokens"] <= 2 * BLOCK


@pytest.mark.skipif(CLAUDE is None, reason="Claude Code is not installed")
def test_claude_code_itself_takes_a_turn(serve: Serve, tmp_path: Path) -> None:
    server = serve("--served-model-name", "tiny", "--max-prompt-tokens", "8000")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DISABLE_AUTOUPDATER": "1"}
    command = [sys.executable, "-m", "mlxserve", "launch", "claude", "--url", server.url, "--"]
    words = ("-p", "Hi", "--tools", "", "--system-prompt", "Be brief.", "--output-format", "json")
    done = subprocess.run(
        [*command, *words],
        check=False,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr + server.said
    result = json.loads(done.stdout)
    assert (result["is_error"], result["num_turns"]) == (False, 1)
    assert result["usage"]["output_tokens"] > 0
