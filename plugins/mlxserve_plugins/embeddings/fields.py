"""What this surface does with each field that a client may send."""

from typing import Final

from mlxserve_plugins.surface.fields import Table, harmless, honoured, refused

EMBEDDINGS: Final = Table.of(
    "embeddings",
    honoured("model", about="the served model's name, or an alias"),
    honoured("input", about="a text, several, a text's token ids, or several such"),
    honoured("encoding_format", about="`float`, or `base64` of little-endian float32"),
    honoured("dimensions", about="the first so many numbers, normalised again"),
    honoured("add_special_tokens", about="on unless it is `false`; token ids are taken as sent"),
    honoured("normalize", about="to length 1 unless it is `false`"),
    harmless("user", "priority", "embed_dtype", "request_id"),
    refused("truncate_prompt_tokens", about="a text that is too long is a 400", off=(-1,)),
    refused("messages", off=([],)),
    refused("input_type", "task", "late_chunking", "truncate", off=("", False)),
)

TABLES: Final = (EMBEDDINGS,)
