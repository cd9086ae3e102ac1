import subprocess
import sys
from typing import Any

import pytest

from mlxserve_plugins.responses import ResponsesOptions


def test_the_plugins_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, mlxserve_plugins.responses\n"
        "print([name for name in ('litestar', 'uvicorn', 'mlx', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("fields", [{"store_size": -1}, {"store_mb": -1.0}], ids=str)
def test_an_impossible_store_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="store"):
        ResponsesOptions(**fields)
