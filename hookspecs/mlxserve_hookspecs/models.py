"""Hooks that find a model: from the name that a user typed to a folder of weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

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


class Adaptation(Protocol):
    """A change of a loaded model's layers: the same function, faster on this device.

    Attributes:
        name: Names the change and the text of its code: that it was proved is remembered by it.
    """

    name: str

    def apply(self) -> str:
        """Change the layers in place; return one line for the plan."""

    def undo(self) -> None:
        """Leave every layer as it was."""


@hookspec
def adapt_model(model: Any) -> Adaptation | None:
    """Offer to change the layers of ``model``, an ``mlx.nn.Module`` of mlx-lm, in place.

    **Gather.** Each offer is applied, in order, and the model's logits are compared with those
    before, for passes of one and several rows; an offer that changes them is undone, and the plan
    says so. Parameters, their names and what ``isinstance`` says of a layer stay. Return ``None``
    where there is nothing to gain.

    Called once at start, on the engine thread, when the weights are in memory. On several ranks
    each asks for itself, and only what all offer is applied: a change must not add or leave out a
    collective.
    """
