"""What this surface does with each field that a client may send."""

from typing import Final

from mlxserve_plugins.surface.fields import Field, Table, harmless, honoured, refused

MESSAGES: Final = Table.of(
    "messages",
    honoured("model", about="the served model's name, or an alias"),
    honoured("messages", about="unknown keys in them are ignored; images are a 400"),
    honoured("system", about="without the lines that `--prompt-omit` names"),
    honoured("max_tokens", about="cut to what the context leaves; 0 prefills the prompt only"),
    honoured("stop_sequences", "stream", "temperature", "top_p", "top_k"),
    honoured("tools", about="those that the client runs; what Anthropic's servers run is a 400"),
    honoured("tool_choice", about="with `disable_parallel_tool_use`"),
    honoured("thinking", about="by the chat template; after `budget_tokens` it is ended"),
    honoured(
        "output_config",
        about="`format` with a schema; `effort` by template or budget",
    ),
    honoured("seed", "cache_salt", "chat_template_kwargs", about="this server's own"),
    honoured("priority", about="this server's own; under a policy that looks at it"),
    [
        Field(
            "output_format",
            "honoured",
            "as `output_config.format`",
            reads_as=lambda value: {"output_config": {"format": value}},
        )
    ],
    harmless("cache_control", about="every prompt is cached"),
    harmless("context_management", about="nothing is taken out of the conversation"),
    harmless("metadata", "service_tier", "speed", "inference_geo", "diagnostics", "betas"),
    harmless("user_profile_id", "workspace_id"),
    refused("container"),
    refused("mcp_servers", off=([],)),
)
"""The fields of ``/v1/messages`` and ``/v1/messages/count_tokens``."""
