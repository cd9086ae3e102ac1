"""What this surface does with each field that a client may send."""

from typing import Final

from mlxserve_plugins.surface.fields import Table, harmless, honoured, refused

RERANK: Final = Table.of(
    "rerank",
    honoured("model", about="the served model's name, or an alias"),
    honoured("query"),
    honoured("documents", about="texts, or objects with a `text`"),
    honoured("top_n", about="so many of the best; all without it"),
    honoured("return_documents", about="off unless it is `true`"),
    honoured("instruction", about="what makes a document relevant, for a model that is told"),
    harmless("user", "priority", "max_chunks_per_doc"),
    refused("max_tokens_per_doc", "truncate_prompt_tokens", about="too long is a 400", off=(-1,)),
    refused("rank_fields", off=([], ["text"])),
)

TABLES: Final = (RERANK,)
