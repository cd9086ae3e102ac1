"""Codex's command line, unmodified, for one turn; only where it is installed (from npm).

Its own instructions are left out: the 4,600 tokens of a prompt with them take a small CPU minutes.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .live import serving

CODEX = shutil.which("codex")
CONFIG = """
model = "smollm2-135m-instruct"
model_provider = "here"
model_instructions_file = "{home}/instructions.md"

[model_providers.here]
name = "here"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""
A_TURN_S = 300.0


CUT = "max_output_tokens"
"""What Codex says of a reply that the server cut: the model draws at random, and may not end."""


@pytest.mark.skipif(CODEX is None, reason="codex is not installed")
def test_codex_takes_a_turn(tmp_path: Path) -> None:
    assert CODEX
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    words = ("--preset", "demo", "--port", "0", "--no-ssd", "--default-max-tokens", "48")
    with serving(tmp_path, *words) as server:
        (home / "config.toml").write_text(CONFIG.format(url=server.url, home=home), "utf-8")
        (home / "instructions.md").write_text("You are a helpful assistant.", "utf-8")
        done = subprocess.run(
            [CODEX, "exec", "--skip-git-repo-check", "-C", str(work), "Say hello"],
            env={**os.environ, "CODEX_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=A_TURN_S,
            check=False,
        )
        finished = server.metrics()["mlxserve_request_prompt_tokens_count"]
    assert finished == 1
    assert done.returncode == 0 or CUT in done.stderr, done.stderr
