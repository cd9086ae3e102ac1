"""What clients send to ``/v1/responses``, field by field.

A field of type ``None`` is one of OpenAI's that would change the reply and that this server does
not have: its null is accepted, a value is refused. Fields that are not here are served without
effect and named in the log.
"""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.openai.bodies import (
    MOST_STOP_TOKENS,
    Bias,
    Count,
    Logprobs,
    Penalty,
    Stops,
    Tokens,
)

Json: TypeAlias = dict[str, Any]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary: TypeAlias = Literal["auto", "concise", "detailed", "none"]


class Reasoning(Struct, kw_only=True):
    """How much the model thinks, and how it tells of that."""

    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: str | None = None
    mode: str | None = None


class TextConfig(Struct, kw_only=True):
    """The form of the reply's text; ``verbosity`` has no effect here."""

    format: Json | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesBody(Struct, kw_only=True):
    """The body of ``POST /v1/responses``.

    Attributes:
        input: A text, or items: messages, calls, their outputs, earlier thinking.
        background: Must not be true: a reply ends when its client leaves.
    """

    model: str | None = None
    input: str | list[Json] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    include: list[str] | None = None
    top_logprobs: Logprobs | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    background: bool | None = None

    # Beyond OpenAI's, as in chat requests.
    min_tokens: Count | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    logit_bias: dict[int, Bias] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Stops | None = None
    stop_token_ids: Annotated[Tokens, Meta(max_length=MOST_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    chat_template_kwargs: Json | None = None

    # Echoed, or accepted for the sake of OpenAI's clients; they change nothing here.
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    max_tool_calls: int | None = None
    stream_options: Json | None = None
    moderation: Any = None
    client_metadata: Any = None

    conversation: None = None
    prompt: None = None
    context_management: None = None
