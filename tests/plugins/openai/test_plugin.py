import subprocess
import sys

import pytest

from mlxserve_plugins.openai import OpenAiOptions


def test_the_plugins_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, mlxserve_plugins.openai\n"
        "print([name for name in ('litestar', 'uvicorn', 'mlx', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("seconds", [-1.0, 3601.0, float("nan")], ids=str)
def test_an_impossible_keepalive_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="sse_keepalive_s"):
        OpenAiOptions(sse_keepalive_s=seconds)
