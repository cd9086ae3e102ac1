"""What clients send, field by field, after each surface's table has been over it (``fields``)."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.openai.fields import CHAT, COMPLETIONS, DETOKENIZE, TOKENIZE
from mlxserve_plugins.openai.messages import Content, Conversation, Tool, ToolChoice
from mlxserve_plugins.surface.fields import Table

MOST_CHOICES = 128
MOST_PROMPTS = 2048
MOST_LOGPROBS = 20
MOST_STOPS = 16
MOST_STOP_TOKENS = 128

Count: TypeAlias = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Size: TypeAlias = Annotated[int, Meta(ge=0)]
Choices: TypeAlias = Annotated[int, Meta(ge=1, le=MOST_CHOICES)]
Logprobs: TypeAlias = Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
Bias: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]
Stops: TypeAlias = Annotated[list[str], Meta(max_length=MOST_STOPS)]
Tokens: TypeAlias = list[Count]


class StreamOptions(Struct, kw_only=True):
    """What a stream has besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Prediction(Struct, kw_only=True):
    """Text that the reply is expected to resemble."""

    type: Literal["content"]
    content: Content | None = None


class GenerationBody(Struct, kw_only=True):
    """What chat and text completions have in common.

    What demands a form (``response_format`` and what other servers call it) is read by
    ``structured.fields``.
    """

    model: str | None = None
    max_tokens: Size | None = None
    min_tokens: Size | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    logit_bias: dict[int, Bias] | None = None
    seed: int | None = None
    n: Choices | None = None
    stop: str | Stops | None = None
    stop_token_ids: Annotated[Tokens, Meta(max_length=MOST_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    prediction: Prediction | None = None
    response_format: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None
    json_schema: Any = None
    regex: Any = None
    ebnf: Any = None
    grammar: Any = None


class ChatBody(GenerationBody):
    """The body of ``/v1/chat/completions``.

    Attributes:
        logprobs: Whether to report them; a number is ``top_logprobs`` too.
        reasoning_effort: How much it thinks, by chat template or budget; likewise
            ``enable_thinking``.
        thinking_budget: Tokens after which its thinking is ended.
    """

    TABLE: ClassVar[Table] = CHAT

    messages: Conversation
    max_completion_tokens: Size | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | Logprobs | None = None
    top_logprobs: Logprobs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking_budget: Count | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(GenerationBody):
    """The body of ``/v1/completions``.

    Attributes:
        prompt: A text, several, a text's token ids, or several such.
        logprobs: Most probable tokens to report; ``true`` is one.
    """

    TABLE: ClassVar[Table] = COMPLETIONS

    prompt: str | Annotated[list[str | Count | Tokens], Meta(min_length=1)]
    best_of: Choices | None = None
    logprobs: bool | Logprobs | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None


class TokenizeBody(Struct, kw_only=True):
    """The body of ``/tokenize``: a text, or a conversation."""

    TABLE: ClassVar[Table] = TOKENIZE

    model: str | None = None
    prompt: str | None = None
    messages: Conversation | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Struct, kw_only=True):
    """The body of ``/detokenize``."""

    TABLE: ClassVar[Table] = DETOKENIZE

    tokens: Tokens
    model: str | None = None
    skip_special_tokens: bool | None = None
