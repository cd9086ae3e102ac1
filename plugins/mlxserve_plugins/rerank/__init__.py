"""Rank documents by a query: by Qwen3-Reranker's yes and no, or by the nearness of embeddings."""

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from mlxserve_hookspecs import Route, Services, hookimpl, option
from mlxserve_plugins.guarding import setting


@frozen(kw_only=True)
class RerankOptions:
    """How documents are scored."""

    method: Literal["auto", "embeddings", "yes-no"] = option(
        "auto",
        "yes-no: how probable yes is beside no, after Qwen3-Reranker's prompt; embeddings: the"
        " cosine of query and document; auto: yes-no for a model whose name says rerank",
        flag="--rerank-method",
    )


@frozen
class Rerank:
    """Adds ``/v1/rerank``."""

    options: RerankOptions = RerankOptions()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.rerank.routes import make_routes  # noqa: PLC0415 - litestar

        pooling = setting(services, "embeddings", "pooling", "auto")
        return make_routes(services, self.options.method, pooling)
