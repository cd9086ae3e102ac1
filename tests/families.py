"""Write a package of each family, install them all, run their tests, serve requests with them.

Run by the tox environment ``families`` in an environment of its own: ``python tests/families.py``.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final

from mlxserve.cli import main as mlxserve
from mlxserve.testing import write_model
from mlxserve.testing.processes import LOOPBACK, ServerProcess, serving
from mlxserve_hookspecs.serving import CHAT_PATH
from mlxserve_plugins.author.writing import families

REPLACED: Final = {
    "adaptation": "fused-layers",
    "admission": "admission",
    "codec": "kv-quant",
    "command": "launch",
    "constraint": "structured",
    "eviction": "prefix-cache",
    "markup": "embeddings",
    "observer": "dashboard",
    "parser": "tools",
    "planner": "spec-decode",
    "policy": "fcfs",
    "proposer": "prediction",
    "ranks": "distributed-mode",
    "routes": "cache-api",
    "rule": "ngram",
    "source": "pypi",
    "states": "sequence-cache",
    "stop": "repetition-guard",
    "tier": "ssd-tier",
}
"""The built-in in whose place each family's package runs, all at once: each has one of its own."""

FAILED: Final = re.compile(r"^mlxserve_plugin_errors_total\{.*\} [1-9].*$", re.MULTILINE)


def python(*words: str) -> str:
    """Run this Python; return what it wrote, or end with it if it fails."""
    done = subprocess.run(
        [sys.executable, *words], check=False, stdout=subprocess.PIPE, text=True, timeout=300
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def write(out: Path) -> list[str]:
    """Write a package of each family; return their folders."""
    for family, builtin in REPLACED.items():
        words = ("--family", family, "--replaces", builtin, "--out", str(out))
        mlxserve(["new-plugin", f"my-{family}", *words])
    return [str(out / f"mlxserve-my-{family}") for family in REPLACED]


def check_places(words: list[str]) -> None:
    """End if a package does not run in the place of its built-in."""
    rows = json.loads(python("-m", "mlxserve", "plugins", "--json", *words))
    for family, builtin in REPLACED.items():
        (row,) = [row for row in rows if row["name"] == builtin]
        came = row["distribution"] == f"mlxserve-my-{family}"
        if not (came and row["replaces_builtin"] and row["active"]):
            raise SystemExit(f"my-{family} does not run in the place of {builtin}: {row}")


def check_requests(server: ServerProcess) -> None:
    """End if a request fails, or a plugin has failed in one."""
    asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    choose = {"type": "one-of", "answers": ["yes", "no"]}
    for body in (asked, {**asked, "temperature": 0}, {**asked, "response_format": choose}):
        answered = server.post(CHAT_PATH, model="tiny", **body)
        if answered.status_code != 200:
            raise SystemExit(f"{body}: {answered.text}\n{server.said}")
    if failed := FAILED.findall(server.get("/metrics").text):
        raise SystemExit("\n".join([*failed, server.said]))


def main() -> None:
    """Do it, and say how long each part took."""
    if set(REPLACED) != set(families()):
        raise SystemExit(f"say what these replace: {set(REPLACED) ^ set(families())}")
    began = monotonic()

    def said(what: str) -> None:
        sys.stdout.write(f"{monotonic() - began:5.0f} s  {what}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="mlxserve-families-") as name:
        out = Path(name)
        folders = write(out)
        said(f"{len(folders)} packages are written")
        python("-m", "pip", "-q", "install", "--no-deps", "--no-build-isolation", *folders)
        said("and installed")
        tested = python("-m", "pytest", "-q", *folders)
        said(f"their tests: {tested.splitlines()[-1]}")
        words = [
            "--model",
            str(write_model(out / "tiny")),
            "--plugins",
            ",".join(REPLACED.values()),
        ]
        check_places(words)
        (out / "server").mkdir()
        with serving(out / "server", *LOOPBACK, *words) as server:
            check_requests(server)
        said("each in the place of a built-in, requests were served")


if __name__ == "__main__":
    main()
