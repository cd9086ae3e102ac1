"""What ``/v1/responses`` does with each field that a client may send."""

from collections.abc import Mapping
from typing import Any, Final

from mlxserve_plugins.surface.fields import Field, Table, alias, harmless, honoured, refused


def _form(value: Any) -> Mapping[str, Any]:
    """Read a ``response_format`` as chat requests have it."""
    if not isinstance(value, dict):
        return {}
    inner = value.get("json_schema")
    form = {"type": value.get("type"), **inner} if isinstance(inner, dict) else value
    return {"text": {"format": form}}


RESPONSES: Final = Table.of(
    "responses",
    honoured("model", about="the served model's name, or an alias"),
    honoured("input", about="a text, or items: messages, calls, outputs, thinking, references"),
    honoured("instructions", about="the system message; not carried over to follow-ups"),
    honoured("previous_response_id", "store", about="kept in memory, within bounds"),
    honoured("stream", "tool_choice"),
    honoured("parallel_tool_calls", about="`false` ends a reply with its first call"),
    honoured("tools", about="functions, custom tools (grammars are shown only), namespaces"),
    honoured("reasoning", about="`effort` by template or budget; with `summary` thinking comes so"),
    honoured("text", about="`format`; `verbosity` has no effect"),
    honoured("include", about="`message.output_text.logprobs`; the rest has no effect"),
    honoured("top_logprobs"),
    honoured("max_output_tokens", about="cut to what the context leaves", off=(-1,)),
    honoured("temperature", "min_p", "presence_penalty", "frequency_penalty"),
    honoured("top_p", "repetition_penalty", off=(0,)),
    honoured("top_k", off=(-1,)),
    honoured("min_tokens", off=(-1,)),
    honoured("seed", about="any integer; without one, replies differ", off=(-1,)),
    honoured("logit_bias", off=([],)),
    honoured("stop", off=("",)),
    honoured("stop_token_ids", "ignore_eos", "skip_special_tokens", "chat_template_kwargs"),
    honoured("priority", about="under a policy that looks at it"),
    honoured("cache_salt"),
    honoured(
        "metadata", "truncation", "user", "safety_identifier", "prompt_cache_key",
        "max_tool_calls", about="told back; no effect on the text",
    ),
    [
        alias("max_tokens", "max_output_tokens", off=(-1,)),
        alias("max_completion_tokens", "max_output_tokens", off=(-1,)),
        Field(
            "reasoning_effort", "honoured", "as `reasoning.effort`", ("",),
            lambda value: {"reasoning": {"effort": value}},
        ),
        Field("response_format", "honoured", "as `text.format`", ({},), _form),
    ],
    harmless(
        "service_tier", "prompt_cache_retention", "prompt_cache_options", "stream_options",
        "moderation", "client_metadata", "verbosity", "access_programs",
    ),
    refused("background", off=(False,), about="a response ends when its client leaves"),
    refused("conversation", about="send its items, or `previous_response_id`"),
    refused("prompt", about="a template that another server keeps"),
    refused("context_management", off=([],)),
    refused("messages", off=([],), about="for `/v1/chat/completions`"),
    refused("n", off=(1,)),
)  # fmt: skip
