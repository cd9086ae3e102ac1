"""Which way of holding a model's KV was proved at an earlier start of the same model here."""

import hashlib
import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from attrs import asdict, frozen

from mlxserve.door import behind
from mlxserve_hookspecs.verdicts import Verdicts

PROVING: Final = ("attention", "batch", "pool")
"""Folders whose code a proof is about: other code, another proof."""


@frozen
class Proven:
    """One proof's outcome.

    Attributes:
        way: The name of the way.
        kernels: Whether kernels attend.
        compiled: Whether passes are compiled.
        drafts: Whether drafts can be taken back.
        plain: Whether the codec failed.
        notes: What else was tried, and why it is not used.
    """

    way: str
    kernels: bool
    compiled: bool
    drafts: bool
    plain: bool
    notes: tuple[str, ...]


@frozen
class Memory:
    """Proofs of earlier starts; of one model as it is loaded now.

    Attributes:
        model: Names weights, adapter and dtype.
        verdicts: The file.
    """

    model: str
    verdicts: Verdicts

    def find(self, asked: str) -> Proven | None:
        """Return what was proved of ``asked`` with this code, mlx and device."""
        found: Any = self.verdicts.known().get(self._question(asked))
        try:
            return Proven(**{**found, "notes": tuple(found["notes"])})
        except (TypeError, KeyError):
            return None

    def keep(self, asked: str, proven: Proven) -> None:
        """Remember a proof."""
        self.verdicts.put(self._question(asked), asdict(proven))

    def _question(self, asked: str) -> str:
        device: Any = mx.device_info()
        facts = (
            self.model,
            asked,
            device.get("device_name", ""),
            version("mlx"),
            version("mlx-lm"),
            _code(),
        )
        return " | ".join(map(str, facts))


def written_in(things: Iterable[object]) -> str:
    """Return a digest of the files in which the classes of plugins' objects are written.

    Whoever mends a codec wants it proved anew, whatever its name and version say.
    """
    digest = hashlib.blake2b(digest_size=8)
    modules = {type(behind(thing)).__module__ for thing in things}
    for name in sorted(modules):
        path = getattr(sys.modules.get(name), "__file__", None)
        digest.update(Path(path).read_bytes() if path else name.encode())
    return digest.hexdigest()


def _code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for folder in PROVING:
        for path in sorted(files(f"mlxserve.{folder}").iterdir(), key=lambda p: p.name):
            if path.name.endswith(".py"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
