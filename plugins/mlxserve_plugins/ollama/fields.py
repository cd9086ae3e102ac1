"""What this surface does with each field that a client may send, and with each option."""

from typing import Final

from mlxserve_plugins.surface.fields import Table, alias, harmless, honoured, refused

COMMON: Final = (
    *honoured("model", about="the served model's name, or an alias; `:latest` is left out"),
    *honoured("stream", about="on unless it is `false`"),
    *honoured("format", about="`json`, or a JSON schema", off=("",)),
    *honoured("options", about="by the table of options"),
    *honoured("think", about="by the chat template, else by a budget"),
    *harmless("keep_alive", about="the model stays"),
    *harmless("top_logprobs", "truncate", "shift"),
    *refused("logprobs", off=(False,)),
    *refused("template", off=("",)),
)

CHAT: Final = Table.of(
    "ollama chat",
    COMMON,
    honoured("messages", about="unknown keys in them are ignored; images are a 400"),
    honoured("tools", off=([],)),
)

GENERATE: Final = Table.of(
    "ollama generate",
    COMMON,
    honoured("prompt", "system"),
    honoured("raw", about="the prompt as it is, without a chat template"),
    refused("suffix", off=("",)),
    refused("images", "context", off=([],)),
)

SHOW: Final = Table.of(
    "ollama show", honoured("model"), [alias("name", "model")], harmless("verbose", "system")
)

EMBED: Final = Table.of(
    "ollama embed",
    honoured("model"),
    honoured("input", about="a text or several"),
    honoured("truncate", about="texts that are too long are cut, unless it is `false`"),
    honoured("dimensions", about="the first so many numbers, normalised again", off=(0,)),
    harmless("options", "keep_alive"),
)

EMBEDDINGS: Final = Table.of(
    "ollama embeddings",
    honoured("model"),
    honoured("prompt", about="one text, whose vector is not normalised"),
    harmless("options", "keep_alive"),
)

OPTIONS: Final = Table.of(
    "ollama options",
    honoured("temperature", "min_p", "presence_penalty", "frequency_penalty"),
    honoured("top_k", about="the server's default is off", off=(-1,)),
    honoured("top_p", about="likewise", off=(0,)),
    honoured("seed", off=(-1,)),
    honoured("stop", off=("", [])),
    [alias("num_predict", "max_tokens", off=(-1, -2))],
    [alias("repeat_penalty", "repetition_penalty", off=(0,))],
    harmless("num_ctx", about="the context is the model's own"),
    harmless(
        "num_keep", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "vocab_only",
        "use_mmap", "use_mlock", "num_thread", "numa", "repeat_last_n", "penalize_newline",
        "mirostat_tau", "mirostat_eta", "logits_all", "embedding_only",
    ),
    refused("mirostat", off=(0,)),
    refused("tfs_z", "typical_p", off=(1,)),
)  # fmt: skip

TABLES: Final = (CHAT, GENERATE, SHOW, EMBED, EMBEDDINGS, OPTIONS)
