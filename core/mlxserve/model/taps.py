"""Hidden states: what chosen layers of a model take in, seen while it runs."""

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
from attrs import define
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.model.backbone import backbone_of
from mlxserve.model.causal import CausalModel
from mlxserve_hookspecs import ModelError

PROBE: Final = (1, 2)
"""Rows and tokens of the pass that shows whether a model can be watched."""


@define(eq=False)
class Taps:
    """Watches a model. Engine thread; what is seen is lazy, also a tracer's.

    Attributes:
        layers: Which layers' inputs are seen, in order; the number of layers is what the head
            takes.
    """

    layers: tuple[int, ...] = ()
    _seen: dict[int, mx.array] | None = None

    def run(
        self, model: CausalModel, tokens: mx.array, cache: Any
    ) -> tuple[mx.array, tuple[mx.array, ...]]:
        """Run a model; return its logits, and each layer's states ``[rows, width, size]``.

        Raises:
            KeyError: The pass did not go through a layer.
        """
        self._seen = seen = dict[int, mx.array]()
        try:
            logits = model(tokens, cache=cache)
        finally:
            self._seen = None  # others run the model too, and nobody takes what they made
        return logits, tuple(seen[layer] for layer in self.layers)

    def note(self, layer: int, states: Any) -> None:
        """Take a layer's states down, if anybody watches."""
        if self._seen is not None and isinstance(states, mx.array):
            self._seen[layer] = states


def tap(model: CausalModel, layers: Sequence[int]) -> Taps:
    """Put taps into ``model``; see ``HiddenStates.layers`` for what ``layers`` are.

    A tapped layer computes what it did: its class is one derived from its own.

    Raises:
        ModelError: There is no such layer, or a pass does not go through it.
    """
    stack: Sequence[Any] = getattr(model, "layers", ())
    count = len(stack)
    bad = [layer for layer in layers if not -1 <= layer <= count]
    if bad:
        raise ModelError(f"hidden states of layer {bad[0]} are asked for; it has {count} layers")
    taps = Taps(tuple(sorted({count if layer == -1 else layer for layer in layers})))
    for layer in taps.layers:
        if layer < count:
            _tap_input(stack[layer], taps, layer)
        elif (backbone := backbone_of(model)) is not None:
            _tap_output(backbone.body, taps, layer)
    try:
        _, states = taps.run(model, mx.ones(PROBE, mx.int32), make_prompt_cache(model))
    except KeyError as error:
        words = f"the hidden states of layer {error} of this model cannot be seen"
        raise ModelError(words) from error
    if any(each.shape[:2] != PROBE for each in states):
        raise ModelError("the hidden states of this model are not those of rows of tokens")
    return taps


def _tap_input(module: Any, taps: Taps, layer: int) -> None:
    kind = type(module)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        taps.note(layer, args[0] if args else None)
        return kind.__call__(self, *args, **kwargs)

    module.__class__ = _derived(kind, call)


def _tap_output(module: Any, taps: Taps, layer: int) -> None:
    kind = type(module)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        states = kind.__call__(self, *args, **kwargs)
        taps.note(layer, states)
        return states

    module.__class__ = _derived(kind, call)


def _derived(kind: type, call: Any) -> type:
    """Return a class with the name and module of ``kind``: the seam goes by those."""
    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
