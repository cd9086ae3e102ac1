"""Vectors of texts, as Ollama asks for them now and did before."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import define, field

from mlxserve_hookspecs import EngineClient, Services
from mlxserve_plugins.embeddings.texts import (
    check_lengths,
    longest,
    pooling_request,
    split_texts,
    tokens_of,
)
from mlxserve_plugins.embeddings.vectors import Matrix, PoolingChoice, shaped, vectors
from mlxserve_plugins.guarding import setting
from mlxserve_plugins.ollama.bodies import EmbedBody, EmbeddingsBody

NANO = 1_000_000_000

_encode = msgspec.json.Encoder().encode


@define(eq=False)
class Embedding:
    """The work of ``/api/embed`` and ``/api/embeddings``."""

    services: Services
    pooling: PoolingChoice = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Pool as the embeddings of the other API are pooled."""
        self.pooling = PoolingChoice(setting(self.services, "embeddings", "pooling", "auto"))

    @property
    def engine(self) -> EngineClient:
        """The engine."""
        return self.services.engine

    async def new(self, body: EmbedBody, tenant: str) -> bytes:
        """Return the answer of ``/api/embed``.

        Raises:
            RequestError: A text is wrong, or too long and not to be cut (status 400).
        """
        began, model = time.monotonic(), self.engine.card.id
        if not body.input:
            return _encode({"model": model, "embeddings": []})
        cut = body.truncate is not False
        tokens, rows = await self._vectors(body.input, "input", tenant, cut=cut)
        facts = {
            "model": model,
            "total_duration": round((time.monotonic() - began) * NANO),
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }

        def answer() -> bytes:
            made = shaped(rows, dimensions=body.dimensions)
            return _encode({**facts, "embeddings": made.tolist()})

        return await asyncio.to_thread(answer)

    async def old(self, body: EmbeddingsBody, tenant: str) -> bytes:
        """Return the answer of ``/api/embeddings``; raises like ``new``."""
        if not body.prompt:
            return _encode({"embedding": []})
        _, rows = await self._vectors(body.prompt, "prompt", tenant, cut=True)
        return _encode({"embedding": rows[0].tolist()})

    async def _vectors(
        self, given: str | Sequence[str], where: str, tenant: str, *, cut: bool
    ) -> tuple[int, Matrix]:
        """Return how many tokens the texts have, and their vectors."""
        card, text = self.engine.card, self.engine.text
        tokens = await tokens_of(text, split_texts(given, where), card, where)
        kind = self.pooling.of(card, text)
        if cut:
            ends = kind == "last"
            tokens = [shortened(one, longest(card), keep_end=ends) for one in tokens]
        check_lengths(tokens, card, where)
        asked = pooling_request(tokens, kind, card, tenant)
        return len(asked.prompt), await vectors(self.services, asked)


def shortened(tokens: list[int], most: int, *, keep_end: bool) -> list[Any]:
    """Return the first ``most`` tokens; with ``keep_end`` the last of them is that of the end."""
    if len(tokens) <= most:
        return tokens
    return [*tokens[: most - 1], tokens[-1]] if keep_end else tokens[:most]
