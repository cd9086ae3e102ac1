"""Fold a batch's rows into one product: some backends run quantized products row by row."""

import time
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.distributed import QuantizedAllToShardedLinear, QuantizedShardedToAllLinear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

ROWS: Final = 8  # rows of the measurement
RUNS, CALLS = 5, 10
MATRIX: Final = 2  # axes
GAIN: Final = 1.1  # less is within the noise


def folded(product: Callable[[Any, mx.array], mx.array]) -> Callable[[Any, mx.array], mx.array]:
    """Return the method ``product``, made to see ``[..., K]`` as ``[1, rows, K]``."""

    def fold_rows(self: Any, x: mx.array) -> mx.array:
        if x.ndim <= MATRIX or x.size == x.shape[-2] * x.shape[-1]:
            return product(self, x)
        y = product(self, x.reshape(1, -1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    return fold_rows


class FoldedLinear(QuantizedLinear):
    """A quantized linear layer that folds."""

    __call__ = folded(QuantizedLinear.__call__)


class FoldedEmbedding(QuantizedEmbedding):
    """A quantized embedding that folds where it is the output projection."""

    as_linear = folded(QuantizedEmbedding.as_linear)


class FoldedAllToSharded(QuantizedAllToShardedLinear):
    """One rank's outputs of a quantized linear layer, folded."""

    __call__ = folded(QuantizedAllToShardedLinear.__call__)  # type: ignore[assignment]


class FoldedShardedToAll(QuantizedShardedToAllLinear):
    """One rank's inputs of a quantized linear layer, folded."""

    __call__ = folded(QuantizedShardedToAllLinear.__call__)  # type: ignore[assignment]


# By exact type: a subclass may return something else than one array.
FOLDED: Final[dict[type, type]] = {
    QuantizedLinear: FoldedLinear,
    QuantizedEmbedding: FoldedEmbedding,
    QuantizedAllToShardedLinear: FoldedAllToSharded,
    QuantizedShardedToAllLinear: FoldedShardedToAll,
}


def fold(model: Module) -> int:
    """Make the quantized layers of ``model`` fold, in place, those inside adapters too.

    Parameters, their names and ``isinstance`` stay as they are.

    Returns:
        How many layers now fold that did not.
    """
    found = [module for module in _modules(model) if type(module) in FOLDED]
    for module in found:
        module.__class__ = FOLDED[type(module)]
    return len(found)


def unfold(model: Module) -> None:
    """Undo ``fold``."""
    was = {folded: plain for plain, folded in FOLDED.items()}
    for module in _modules(model):
        module.__class__ = was.get(type(module), type(module))


def folding_pays(model: Module) -> bool:
    """Return whether folded rows are faster here, by the model's largest quantized layer.

    Runs that layer's product some hundred times on the default device; a CPU is not asked.
    """
    layers = [x for x in _modules(model) if type(x) in (QuantizedLinear, FoldedLinear)]
    if not layers or mx.default_device() == mx.Device(mx.cpu):
        return False
    layer = max(layers, key=lambda x: x["weight"].size)
    inputs = layer["weight"].shape[-1] * 32 // layer.bits
    kind = layer["scales"].dtype if layer.mode == "affine" else mx.bfloat16
    x = mx.random.normal((ROWS, 1, inputs), key=mx.random.key(0)).astype(kind)
    by_row, at_once = (_seconds(layer, x.reshape(shape)) for shape in (x.shape, (1, ROWS, inputs)))
    return by_row > GAIN * at_once


def _modules(model: Module) -> list[Any]:
    return [module for _, module in model.named_modules()]  # type: ignore[no-untyped-call]


def _seconds(layer: QuantizedLinear, x: mx.array) -> float:
    """Return the least seconds of some runs of the product as it is, not folded."""
    product: Callable[[Any, mx.array], mx.array] = QuantizedLinear.__call__
    spent = []
    for _ in range(RUNS + 1):  # the first compiles
        given = [x + n for n in range(CALLS)]
        mx.eval(given)
        begin = time.perf_counter()
        mx.eval([product(layer, one) for one in given])
        spent.append(time.perf_counter() - begin)
    return min(spent[1:])
