"""Run the contracts against installed plugins: ``python -m mlxserve.testing.check NAMES FLAGS``."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlxserve.testing import checked


def main(names: Sequence[str], words: Sequence[str]) -> int:
    """Run every contract that fits these plugins; return pytest's exit status.

    Caches of the user are left alone: what the plugins write goes to a folder that is deleted.

    Args:
        names: The plugins, by their entry points.
        words: Of ``mlxserve run``: the plugins' options.
    """
    with tempfile.TemporaryDirectory(prefix="mlxserve-check-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ[checked.VARIABLE] = json.dumps({"names": [*names], "words": [*words]})
        ini = Path(folder) / "pytest.ini"
        ini.write_text("[pytest]\n", "utf-8")
        flags = ("-p", "no:cacheprovider", "--no-header", "-v", "--tb=short", "-rs")
        return int(pytest.main(["-c", str(ini), "--rootdir", folder, *flags, checked.__file__]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(","), sys.argv[2:]))
