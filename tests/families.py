"""Write a package of each family, install them all, run their tests, serve a request with each.

Run by the tox environment ``families`` in an environment of its own: ``python tests/families.py``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from mlxserve.testing import write_model
from mlxserve.testing.processes import LOOPBACK, serving
from mlxserve_hookspecs.serving import CHAT_PATH

REPLACED: Final = {
    "admission": "admission",
    "codec": "kv-quant",
    "command": "launch",
    "constraint": "structured",
    "eviction": "prefix-cache",
    "markup": "tools",
    "observer": "dashboard",
    "parser": "tools",
    "planner": "spec-decode",
    "policy": "fcfs",
    "proposer": "prediction",
    "ranks": "distributed-mode",
    "routes": "cache-api",
    "rule": "spec-decode",
    "source": "pypi",
    "states": "sequence-cache",
    "tier": "ssd-tier",
}
"""The built-in in whose place each family's package runs."""


def mlxserve(*words: str) -> None:
    """Run ``mlxserve`` and end with it if it fails."""
    subprocess.run([sys.executable, "-m", "mlxserve", *words], check=True)


def pip(*words: str) -> None:
    """Run pip likewise."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True)


def serve(model: Path, folder: Path, builtin: str, package: str) -> None:
    """Serve a request while the package runs in the built-in's place."""
    folder.mkdir()
    words = ["--model", str(model), "--plugins", builtin]
    words += [] if builtin == "ssd-tier" else ["--no-ssd"]
    command = [sys.executable, "-m", "mlxserve", "plugins", "--json", *words]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    (row,) = [row for row in rows if row["name"] == builtin]
    if not (row["distribution"] == package and row["replaces_builtin"] and row["active"]):
        raise SystemExit(f"{package} does not run in the place of {builtin}: {row}")
    with serving(folder, *LOOPBACK, *words) as server:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        answered = server.post(CHAT_PATH, model="tiny", **body)
        if answered.status_code != 200:
            raise SystemExit(f"{package}: {answered.text}\n{server.said}")


def main() -> None:
    """Do it for every family, one after the other: two may replace the same built-in."""
    with tempfile.TemporaryDirectory(prefix="mlxserve-families-") as name:
        out = Path(name)
        model = write_model(out / "tiny")
        for family, builtin in REPLACED.items():
            package = f"mlxserve-my-{family}"
            words = ("--family", family, "--replaces", builtin, "--out", str(out))
            mlxserve("new-plugin", f"my-{family}", *words)
            pip("install", "--no-deps", "--no-build-isolation", str(out / package))
            tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", str(out / package)]
            subprocess.run(tests, check=True)
            serve(model, out / f"of-{family}", builtin, package)
            pip("uninstall", "--yes", package)
            sys.stdout.write(f"{family}: in the place of {builtin}\n")


if __name__ == "__main__":
    main()
