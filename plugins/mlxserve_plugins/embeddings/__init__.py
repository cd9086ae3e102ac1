"""Serve embeddings of texts: the served model's last hidden states, pooled and normalised."""

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from mlxserve_hookspecs import Route, Services, hookimpl, option


@frozen(kw_only=True)
class EmbeddingsOptions:
    """What becomes of a text's hidden states."""

    pooling: Literal["auto", "mean", "last"] = option(
        "auto",
        "the mean over a text's tokens or its last one's; auto is what the model's"
        " 1_Pooling/config.json says, else last where the tokenizer ends texts with a token"
        " of its own (Qwen3-Embedding), else mean",
        flag="--embedding-pooling",
    )


@frozen
class Embeddings:
    """Adds ``/v1/embeddings``."""

    options: EmbeddingsOptions = EmbeddingsOptions()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.embeddings.routes import make_routes  # noqa: PLC0415 - litestar

        return make_routes(services, self.options.pooling)
