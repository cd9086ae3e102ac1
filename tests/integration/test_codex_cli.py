"""Codex's command line, unmodified, for one turn; only where it is installed (from npm)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .live import LiveServer

CODEX = shutil.which("codex")
CONFIG = """
model = "smollm2-135m-instruct"
model_provider = "here"

[model_providers.here]
name = "here"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""
A_TURN_S = 500.0
"""Its prompt has 4,600 tokens, which a small CPU takes minutes to read."""


@pytest.mark.skipif(CODEX is None, reason="codex is not installed")
def test_codex_takes_a_turn(demo: LiveServer, tmp_path: Path) -> None:
    assert CODEX
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(url=demo.url), "utf-8")
    before = demo.metrics().get("mlxserve_request_success_total{stop}", 0.0)
    done = subprocess.run(
        [CODEX, "exec", "--skip-git-repo-check", "-C", str(work), "Say hello"],
        env={**os.environ, "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=A_TURN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "tokens used" in done.stderr
    assert demo.metrics().get("mlxserve_request_success_total{stop}", 0.0) >= before
