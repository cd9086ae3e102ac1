"""Serve one chat to nobody and show each call of a hook: ``python -m mlxserve.testing.trace``."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from mlxserve.testing.engines import without_tiers
from mlxserve.testing.models import write_model
from mlxserve.testing.processes import LOOPBACK, serving
from mlxserve.tracing import VARIABLE
from mlxserve_hookspecs.serving import CHAT_PATH

HEADER = f"     {'hook':<22} {'plugin':<18} {'time':>12}  answer"


def main(words: Sequence[str]) -> int:
    """Run ``mlxserve run`` with ``words`` on a tiny model; return 1 where it did not start."""
    with tempfile.TemporaryDirectory(prefix="mlxserve-trace-") as folder:
        model = write_model(Path(folder) / "tiny")
        flags = (*LOOPBACK, "--model", str(model), *without_tiers(words), *words)
        try:
            with serving(Path(folder), *flags, variables={VARIABLE: "1"}) as server:
                body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
                try:
                    server.post(CHAT_PATH, model="tiny", **body)
                except httpx.HTTPError as error:
                    sys.stderr.write(f"mlxserve: the chat was not answered: {error}\n")
                server.process.terminate()
                server.ended()
        except RuntimeError as error:
            sys.stderr.write(f"mlxserve: {error}\n")
            return 1
        said = (Path(folder) / "stderr").read_text("utf-8").splitlines()
    sys.stdout.write("\n".join([HEADER, *(line for line in said if line.startswith("hook "))]))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
