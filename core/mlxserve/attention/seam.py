"""The attention seam: the one function of mlx-lm's model modules that is replaced.

A model calls its module's ``scaled_dot_product_attention`` with what the layer's cache returned
from ``update_and_fetch``. Where that is a ``Held``, the pass that made it attends; anything else
goes to mlx-lm's own function.
"""

import sys
from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx
from attrs import frozen

from mlxserve.model.causal import CausalModel

NAME = "scaled_dot_product_attention"
MODELS = "mlx_lm.models."


@frozen
class Seen:
    """A mask that says it all: causal, and within ``window`` tokens if there is one."""

    window: int | None = None


class Attends(Protocol):
    """Whoever holds a layer's keys and values and knows how to read them."""

    def attend(
        self, queries: mx.array, scale: float, window: int | None, sinks: mx.array | None
    ) -> mx.array:
        """Return attention's output ``[rows, heads, tokens, width]``."""


@frozen
class Held:
    """One layer's keys or values in place of an array."""

    owner: Attends


class MaskError(TypeError):
    """A model made a mask of its own: only it knows what that means."""


def bind(model: CausalModel) -> None:
    """Put the seam into every mlx-lm module that ``model`` is made of; doing so twice is once.

    Other users of those modules see no difference: only a ``Held`` takes the other way.
    """
    names = {type(part).__module__ for _, part in model.named_modules()}
    for name in sorted(names):
        if name.startswith(MODELS) and hasattr(sys.modules[name], NAME):
            plain = getattr(sys.modules[name], NAME)
            if not hasattr(plain, "mlxserve_plain"):
                setattr(sys.modules[name], NAME, _seam(plain))


def _seam(plain: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def attention(
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: Any = None,
        scale: float = 1.0,
        mask: Any = None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if isinstance(keys, Held):
            if mask is not None and not isinstance(mask, Seen):
                raise MaskError("the model masks attention in a way of its own")
            return keys.owner.attend(queries, scale, mask.window if mask else None, sinks)
        return plain(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    attention.mlxserve_plain = plain  # type: ignore[attr-defined]
    return attention
