"""What is offered to one model."""

import hashlib
from importlib.resources import files
from typing import Any

from attrs import define, evolve, field

from mlxserve_hookspecs.models import Adaptation
from mlxserve_plugins.fused.folding import fold, folding_pays, unfold
from mlxserve_plugins.fused.kernels import Few, cuda
from mlxserve_plugins.fused.layers import Fused
from mlxserve_plugins.fused.tuning import slower


@define(eq=False)
class Offer:
    """Implements ``Adaptation``: kernels, folding, or both.

    Attributes:
        model: Changed in place.
        fused: Its layers by kernels; ``None``: this device has none.
        folds: Whether quantized layers fold their rows.
    """

    model: Any
    fused: Fused | None
    folds: bool
    name: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        kinds = [kind for kind, on in (("kernels", self.fused), ("folds", self.folds)) if on]
        own = sorted(self.fused.few.slower) if self.fused else []
        self.name = f"fused-layers ({', '.join(kinds)}, {_code()}, {own})"

    def apply(self) -> str:
        """Change what there is to change."""
        counts = dict(self.fused.apply()) if self.fused else {}
        if self.folds:
            counts["quantized layers folded"] = fold(self.model)
        line = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        own = sorted(self.fused.few.slower) if self.fused else []
        return f"fused layers: {line}" + (f"; by mlx: {'; '.join(own)}" if own else "")

    def undo(self) -> None:
        """Take both back."""
        if self.fused:
            self.fused.undo()
        if self.folds:
            unfold(self.model)


def offer(model: Any, kernels: bool) -> Adaptation | None:
    """Return what pays for ``model`` here, if anything does."""
    folds = folding_pays(model)
    few = Few(cuda)
    fused = Fused(evolve(few, slower=slower(few, model, _code())), model) if kernels else None
    if fused is not None:
        counts = fused.apply()
        fused.undo()
        fused = fused if counts else None
    return Offer(model, fused, folds) if fused or folds else None


def _code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    folder = files(__package__)
    for path in sorted((*folder.iterdir(), *folder.joinpath("bodies").iterdir()), key=str):
        if path.name.endswith((".py", ".body")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
