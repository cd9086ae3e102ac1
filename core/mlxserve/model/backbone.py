"""A model without its head: the hidden states that logits are made of, found and proved."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, cast

import mlx.core as mx
from attrs import frozen
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.model.causal import CausalModel

EXACT, ROUGH = 1e-3, 0.05
"""Largest difference, as a share of the logits' range, in float32 and in half precision."""

TEXTS: Final = ((11, 12, 13, 14, 15, 16, 17, 18, 19, 20), (7, 8, 9))
CUT: Final = 4
"""Tokens of the proof's first pass; the shorter text ends in it, padded."""

DEPTH: Final = 2
"""A model may be wrapped in one that could see, too."""


class Body(Protocol):
    """Whatever makes hidden states of tokens."""

    def __call__(self, tokens: mx.array, *, cache: Any) -> mx.array:
        """Return ``[rows, width, size]`` for tokens ``[rows, width]``."""


@frozen(eq=False)
class Backbone:
    """What computes a model's last hidden states, normalised as its head takes them.

    Attributes:
        body: Computes them, with mlx-lm's own caches.
        head: Makes logits of them; ``None`` where the model does something more to its logits.
        together: Whether padded rows can share a pass.
    """

    body: Body
    head: Callable[[mx.array], mx.array] | None
    together: bool


def backbone_of(model: CausalModel) -> Backbone | None:
    """Return the part whose output, through a head of the model, is the model's logits.

    It is proved in pieces and on padded rows, as it is used, against whole calls of the model.
    Logits that only rise with the model's own will do: capped or scaled ones do.

    Returns:
        ``None`` where no part of the model has such an output. Engine thread.
    """
    wanted = [model(mx.array([text]), cache=make_prompt_cache(model))[0] for text in TEXTS]
    mx.eval(wanted)
    for body, head in _candidates(model):
        for together in (True, False):
            try:
                found = _logits(model, body, head, together=together)
                exact, rises = _compared(found, wanted)
            except Exception:  # any part of any model: it is not the one
                continue
            if rises:
                return Backbone(body, head if exact else None, together)
    return None


def _candidates(
    model: Any, depth: int = DEPTH
) -> Iterator[tuple[Body, Callable[[mx.array], mx.array]]]:
    """Yield each part that may be a body with each that may be its head, outermost first."""
    for name, part in model.children().items():
        if not _is_body(part):
            continue
        for other, head in model.children().items():
            if other != name and isinstance(head, Module) and "weight" in head:
                yield cast(Body, part), cast(Any, head)
        for inside in part.children().values():
            if hasattr(inside, "as_linear"):
                yield cast(Body, part), inside.as_linear
    if depth > 1:
        for part in model.children().values():
            if _is_body(part):
                yield from _candidates(part, depth - 1)


def _is_body(part: Any) -> bool:
    return isinstance(part, Module) and callable(part)


def _logits(
    model: CausalModel,
    body: Body,
    head: Callable[[mx.array], mx.array],
    *,
    together: bool,
) -> list[mx.array]:
    """Return each text's logits ``[tokens, vocab]`` by way of hidden states."""
    groups: Sequence[Sequence[tuple[int, ...]]] = [TEXTS] if together else [[t] for t in TEXTS]
    found = []
    for texts in groups:
        width = max(map(len, texts))
        tokens = mx.array([[*t, *[0] * (width - len(t))] for t in texts])
        cache = make_prompt_cache(model)
        states = [
            body(tokens[:, at:end], cache=cache) for at, end in ((0, CUT), (CUT, width)) if at < end
        ]
        logits = head(mx.concatenate(states, axis=1))
        found += [logits[at, : len(text)] for at, text in enumerate(texts)]
    return found


def _compared(found: Sequence[mx.array], wanted: Sequence[mx.array]) -> tuple[bool, bool]:
    """Return whether logits are the model's, and whether they at least rise with those."""
    limit = EXACT if wanted[0].dtype == mx.float32 else ROUGH
    off = fall = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        a, b = mine.astype(mx.float32), theirs.astype(mx.float32)
        reach = mx.maximum(b.max(axis=-1) - b.min(axis=-1), 1e-30)
        off = max(off, _most(mx.abs(a - b).max(axis=-1) / reach))
        ordered = mx.take_along_axis(b, mx.argsort(a, axis=-1), axis=-1)
        fall = max(fall, _most((mx.cummax(ordered, axis=-1) - ordered).max(axis=-1) / reach))
    return off <= limit, fall <= limit


def _most(values: mx.array) -> float:
    found = cast(float, values.max().item())
    return float("inf") if found != found else found  # noqa: PLR0124 - not a number
