"""What OpenAI's surfaces do with each field that a client may send: one table for each."""

from collections.abc import Mapping
from typing import Any, Final

from mlxserve_plugins.surface.fields import (
    Field,
    Table,
    alias,
    harmless,
    honoured,
    mended,
    refused,
)


def _stops(value: Any) -> Any:
    return [one for one in value if one not in ("", None)] if isinstance(value, list) else value


def _bias(value: Any) -> Any:
    # llama.cpp's clients send pairs.
    pairs = isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value)  # noqa: PLR2004
    return {str(token): amount for token, amount in value} if pairs else value


def _tool(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "function" in value:
        return {"type": "function", **value}
    if "name" in value and value.get("type") in (None, "function"):
        schema = value.get("parameters", value.get("input_schema"))
        return {"type": "function", "function": {**value, "parameters": schema}}
    return value


def _tools(value: Any) -> Any:
    return [_tool(one) for one in value] if isinstance(value, list) else value


def _choice(value: Any) -> Any:
    if isinstance(value, dict):
        kind, name = value.get("type"), value.get("name")
        if kind in ("auto", "none", "required", "any"):
            value = kind
        elif isinstance(name, str) and "function" not in value:
            return {"type": "function", "function": {"name": name}}
        elif "function" in value:
            return {"type": "function", **value}
    return "required" if value == "any" else value


def _thinking(value: Any) -> Mapping[str, Any]:
    """Read ``true``, ``"high"``, ``{"type": "disabled"}``, ``{"effort": "low"}``, budgets."""
    if isinstance(value, bool):
        return {"enable_thinking": value}
    if isinstance(value, str):
        return {"reasoning_effort": value}
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    if isinstance(value.get("effort"), str):
        found["reasoning_effort"] = value["effort"]
    for name in ("budget_tokens", "max_tokens"):  # Anthropic's and OpenRouter's
        if value.get(name) is not None:
            found["thinking_budget"] = value[name]
    on = {"enabled": True, "disabled": False}.get(str(value.get("type")), value.get("enabled"))
    return {**found, "enable_thinking": on} if isinstance(on, bool) else found


GENERATION: Final[tuple[Field, ...]] = (
    *honoured("model", about="the served model's name, or an alias"),
    *honoured("max_tokens", about="cut to what the context leaves", off=(-1,)),
    *honoured("min_tokens", off=(-1,)),
    *honoured("temperature", "min_p", "presence_penalty", "frequency_penalty"),
    *honoured("top_p", "repetition_penalty", off=(0,)),
    *honoured("top_k", off=(-1,)),
    *honoured("seed", about="any integer; without one, replies differ", off=(-1,)),
    *mended(_bias, *honoured("logit_bias", off=([],))),
    *honoured("n"),
    *mended(_stops, *honoured("stop", off=("",))),
    *honoured("stop_token_ids", "ignore_eos", "skip_special_tokens"),
    *honoured("stream", "stream_options"),
    *honoured("priority", about="under a policy that looks at it"),
    *honoured("cache_salt", "prediction"),
    *honoured("response_format", "logprobs"),
    alias("repeat_penalty", "repetition_penalty", off=(0,)),
    alias("max_new_tokens", "max_tokens", off=(-1,)),
    alias("n_predict", "max_tokens", off=(-1, -2)),
    alias("min_new_tokens", "min_tokens", off=(-1,)),
    alias("stop_sequences", "stop", off=("", [])),
    alias("random_seed", "seed", off=(-1,)),
    *honoured("guided_json", about="a JSON schema", off=("",)),
    *honoured("json_schema", about="a JSON schema", off=("", {})),
    *honoured("guided_regex", "guided_choice", "guided_grammar", off=("", [])),
    *honoured("regex", off=("",)),
    *honoured("ebnf", "grammar", about="in Lark, or as llama.cpp has it", off=("",)),
    *honoured(
        "structured_outputs",
        about="`json`, `json_object`, `regex`, `choice` or `grammar`",
        off=({},),
    ),
    *harmless(
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "verbosity", "include_obfuscation", "cache_prompt", "keep_alive",
        "request_id", "return_token_ids", "return_tokens_as_token_ids", "prompt_logprobs",
        "spaces_between_special_tokens", "length_penalty", "early_stopping", "timings_per_token",
        "return_progress", "slot_id", "id_slot", "num_ctx", "guided_decoding_backend",
        "guided_whitespace_pattern", "mirostat_tau", "mirostat_eta", "dry_base",
        "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold",
        "dynatemp_exponent", "kv_transfer_params", "timeout",
    ),
    *refused("use_beam_search", "include_stop_str_in_output", off=(False,)),
    *refused("typical_p", "tfs_z", off=(1,)),
    *refused("mirostat", "dry_multiplier", "xtc_probability", "top_a", off=(0,)),
    *refused("dynatemp_range", "no_repeat_ngram_size", off=(0,)),
    *refused("bad_words", "allowed_token_ids", "banned_tokens", "logits_processors", off=([],)),
    *refused("truncate_prompt_tokens", off=(-1,)),
)  # fmt: skip

THINKING: Final = "as `enable_thinking`, `reasoning_effort`, `thinking_budget`"

CHAT: Final = Table.of(
    "chat",
    GENERATION,
    honoured("messages", about="unknown keys in them are ignored"),
    honoured("max_completion_tokens", about="the newer name of `max_tokens`", off=(-1,)),
    mended(_tools, *honoured("tools", off=([],))),
    mended(_choice, *honoured("tool_choice")),
    honoured("parallel_tool_calls", about="`false` ends a reply with its first call"),
    honoured("top_logprobs", "chat_template_kwargs"),
    honoured("modalities", about="text only"),
    honoured("reasoning_effort", about="by the chat template, else by a budget"),
    honoured("enable_thinking", about="by the chat template, else by a budget of 0"),
    honoured("thinking_budget", about="tokens after which the thinking is ended", off=(-1,)),
    [
        alias(name, "thinking_budget", off=(-1,))
        for name in ("thinking_token_budget", "reasoning_budget", "max_thinking_tokens")
    ],
    honoured("add_generation_prompt"),
    honoured("continue_final_message", about="the reply goes on with the last message"),
    [
        Field(name, "honoured", THINKING, (), _thinking)
        for name in ("reasoning", "thinking", "think")
    ],
    harmless("include_reasoning", "separate_reasoning", "transforms", "route", "provider"),
    refused("functions", off=([],), about="older than `tools`, which are honoured"),
    refused("function_call", off=("none", "auto"), about="older than `tool_choice`"),
    refused("prompt", off=("", []), about="for `/v1/completions`"),
    refused("audio", off=({},)),
    refused("web_search_options"),
    refused("documents", off=([],)),
    refused("chat_template", off=("",)),
    refused("echo", "add_special_tokens", off=(False,)),
    refused("best_of", off=(1,)),
)

COMPLETIONS: Final = Table.of(
    "completions",
    GENERATION,
    honoured("prompt", about="a text, several, token ids, or several such"),
    honoured("best_of", "echo", "add_special_tokens"),
    refused("suffix", off=("",)),
    refused("messages", off=([],), about="for `/v1/chat/completions`"),
)

TOKENIZE: Final = Table.of(
    "tokenize",
    honoured("model", "prompt", "messages", "add_special_tokens", "add_generation_prompt"),
    honoured("continue_final_message", "tools", "chat_template_kwargs", "return_token_strs"),
    mended(_tools, *honoured("tools")),
    [
        alias("content", "prompt"),
        alias("add_special", "add_special_tokens"),
        alias("with_pieces", "return_token_strs"),
    ],
)

DETOKENIZE: Final = Table.of("detokenize", honoured("model", "tokens", "skip_special_tokens"))

TABLES: Final = (CHAT, COMPLETIONS, TOKENIZE, DETOKENIZE)
