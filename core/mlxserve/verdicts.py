"""What was found out about this machine once, kept for the next start."""

import json
import os
from pathlib import Path
from typing import Any

import structlog
from attrs import field, frozen

log = structlog.get_logger("mlxserve.verdicts")


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
