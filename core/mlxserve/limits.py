"""What a request may ask for: what was set, within what the model and KV can hold."""

from mlxserve.resolved import Resolved
from mlxserve.settings import DEFAULT_ORIGIN
from mlxserve_hookspecs import Limits


def limits_of(resolved: Resolved, max_len: int | None, kv_tokens: int | None) -> Limits:
    """Return a run's limits; 0 seconds are unlimited, 0 tokens by default are all that is left.

    Args:
        resolved: What was set, and by whom: a model knows how long its prompts may be, unless
            somebody says otherwise.
        max_len: Longest prompt and reply that the model was made for, if it says so.
        kv_tokens: Longest prompt and reply that KV can hold, if that is bounded.
    """
    asked = resolved.generation
    longest = asked.max_prompt_tokens
    if max_len is not None and not _was_set(resolved, "generation", "max_prompt_tokens"):
        longest = max(max_len - 1, 1)
    return Limits(
        default_max_tokens=asked.default_max_tokens or None,
        max_prompt_tokens=longest,
        max_generation_tokens=asked.max_generation_tokens,
        max_model_len=max_len,
        max_kv_tokens=kv_tokens,
        request_timeout=asked.request_timeout_s or None,
        first_token_timeout=asked.first_token_timeout_s or None,
    )


def _was_set(resolved: Resolved, section: str, name: str) -> bool:
    return any(
        (row.section, row.name) == (section, name) and row.origin != DEFAULT_ORIGIN
        for row in resolved.rows
    )
