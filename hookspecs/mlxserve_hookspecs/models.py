"""Hooks that find a model: from the name that a user typed to a folder of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from attrs import frozen

from mlxserve_hookspecs.markers import hookspec

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told ``(what, done, total)`` while something long goes on; bytes or items, total if known."""


@frozen(kw_only=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        folder: What mlx-lm loads: ``config.json``, ``*.safetensors``, the tokenizer's files.
        identity: Names the weights and their revision: a content hash, a commit, or the resolved
            path with times of change. Two models of one identity have the same KV.
        name: The public name, where it is not to be the reference itself.
    """

    folder: Path
    identity: str
    name: str | None = None


@hookspec(firstresult=True)
def resolve_model(reference: str, progress: Progress) -> ModelSource | None:
    """Turn ``reference`` into a folder of weights, downloading and converting what is missing.

    **Ask.** The first plugin to answer is heard; return ``None`` for a reference of another kind.

    Called once per model at start, on the loading thread, after ``preparing``. May take minutes.

    Raises:
        ModelError: The reference is of this plugin's kind and leads nowhere: one line that says
            what is missing.
    """
