"""From hidden states to the vectors that clients compare."""

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from attrs import define, field

from mlxserve_hookspecs import GenerationRequest, ModelCard, RequestError, Services, TextCodec
from mlxserve_plugins.openai.parameters import refusal
from mlxserve_plugins.openai.replies import ended

Kind: TypeAlias = Literal["mean", "last"]
Matrix: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
"""``[texts, size]``, float32."""

POOLING_FILE: Final = Path("1_Pooling") / "config.json"
POOLING_HEADER: Final = "X-Mlxserve-Pooling"


async def vectors(services: Services, request: GenerationRequest) -> Matrix:
    """Return the vectors that the engine computes for a request with a ``Pooling``.

    Cancelling this cancels the request.

    Raises:
        RequestError: It is refused, or fails.
    """
    services.admission.admit(request)
    found: dict[int, bytes] = {}
    batches = services.engine.generate(request)
    try:
        async for events in batches:
            for event in events:
                found.update({one.text: one.vector for one in event.pooled})
                if event.finish is not None:
                    ended(event.finish)
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
    rows = np.stack([np.frombuffer(found[at], "<f4") for at in range(len(found))])
    if not np.isfinite(rows).all():
        raise RequestError(status=500, message="the model computed what is no number")
    return rows


def shaped(rows: Matrix, *, dimensions: int | None = None, normal: bool = True) -> Matrix:
    """Return the first ``dimensions`` numbers of each row, at length 1 unless told otherwise.

    Raises:
        RequestError: The vectors have fewer (status 400).
    """
    if dimensions is not None and dimensions > rows.shape[1]:
        message = f"`dimensions` is {dimensions}: this model's vectors have {rows.shape[1]}"
        raise refusal("dimensions", message)
    rows = rows[:, :dimensions]
    if not normal:
        return rows
    lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
    made: Matrix = (rows / np.maximum(lengths, 1e-30)).astype(np.float32)
    return made


def as_base64(row: Matrix) -> str:
    """Return a vector's bytes, little-endian float32, in base64."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


@define
class PoolingChoice:
    """Says how the served model's states are pooled: as it was trained, if anybody can tell.

    Attributes:
        wanted: What the user set.
    """

    wanted: Literal["auto", "mean", "last"]
    _known: dict[str, Kind] = field(factory=dict)

    def of(self, card: ModelCard, text: TextCodec) -> Kind:
        """Return the kind for the model."""
        if self.wanted != "auto":
            return self.wanted
        if card.identity not in self._known:
            stated = stated_pooling(card.folder) if card.folder else None
            by_tokens: Kind = "last" if ends_texts(text) else "mean"
            self._known[card.identity] = stated or by_tokens
        return self._known[card.identity]


def stated_pooling(folder: Path) -> Kind | None:
    """Return what the model's own file says, in the form of sentence-transformers."""
    try:
        said = json.loads((folder / POOLING_FILE).read_text("utf-8-sig"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict):
        return None
    if said.get("pooling_mode_lasttoken"):
        return "last"
    return "mean" if said.get("pooling_mode_mean_tokens") else None


def ends_texts(text: TextCodec) -> bool:
    """Return whether the tokenizer ends a text with a token of its own."""
    plain = text.encode("a", add_special_tokens=False)
    whole = text.encode("a")
    return len(whole) > len(plain) and whole[-1] in text.special_token_ids
