"""What clients send to ``/v1/responses``, after the table has been over it (``fields``)."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.openai.bodies import (
    MOST_STOP_TOKENS,
    Bias,
    Count,
    Logprobs,
    Penalty,
    Size,
    Stops,
    Tokens,
)
from mlxserve_plugins.responses.fields import RESPONSES
from mlxserve_plugins.surface.fields import Table

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
    """

    TABLE: ClassVar[Table] = RESPONSES

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
    max_output_tokens: Size | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None

    # Beyond OpenAI's, as in chat requests.
    min_tokens: Size | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    logit_bias: dict[int, Bias] | None = None
    seed: int | None = None
    stop: str | Stops | None = None
    stop_token_ids: Annotated[Tokens, Meta(max_length=MOST_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    chat_template_kwargs: Json | None = None

    # Told back; they change nothing here.
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    max_tool_calls: int | None = None
