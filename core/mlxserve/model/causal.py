"""What KV knows of a model."""

from typing import Any, Protocol

import mlx.core as mx


class CausalModel(Protocol):
    """An mlx-lm model: an ``mlx.nn.Module`` that is called with tokens and caches."""

    def __call__(self, tokens: mx.array, *, cache: Any) -> mx.array:
        """Return logits ``[rows, width, vocab]`` for tokens ``[rows, width]``."""

    def named_modules(self) -> list[tuple[str, Any]]:
        """Return every part by its path."""
