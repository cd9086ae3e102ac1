"""What was found out about this machine once, kept for the next start."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from attrs import field, frozen

log = structlog.get_logger("mlxserve_hookspecs.verdicts")


def cache_folder() -> Path:
    """Return where this user's caches are."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mlxserve"


@frozen
class Verdicts:
    """A file of answers by question; a read-only or damaged one is as good as none.

    Attributes:
        name: The file's.
        folder: Where it lies.
    """

    name: str
    folder: Path = field(factory=cache_folder)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.name}.json"

    def known(self) -> dict[str, Any]:
        """Return every answer."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def put(self, question: str, answer: Any) -> None:
        """Keep an answer, beside those that others have kept meanwhile."""
        part = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({**self.known(), question: answer}, indent=1))
            part.replace(self.path)
        except OSError:
            log.warning("a verdict cannot be kept", path=str(self.path))


def tried(command: Sequence[str], seconds: float) -> str | None:
    """Run a trial in a process of its own; return why it failed, or ``None``.

    For what may hang or abort: that must cost a verdict, not the start.

    Args:
        command: Exits with 0 where all is well, else says why on its last line.
        seconds: How long it may take.
    """
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds:.0f} s"
    except OSError as error:
        return f"it could not be tried: {error}"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"status {done.returncode}: {lines[-1][:200] if lines else 'no message'}"
