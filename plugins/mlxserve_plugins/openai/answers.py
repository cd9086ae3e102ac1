"""What clients get: OpenAI's response objects. A field with ``UNSET`` is left out."""

from typing import Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class PromptDetails(Struct):
    """Where the prompt's KV came from; by tier, if any of it was cached."""

    cached_tokens: int
    cached_tokens_by_tier: dict[str, int] | UnsetType = UNSET


class CompletionDetails(Struct):
    """What the reply's tokens were."""

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class UsageInfo(Struct):
    """What a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(Struct):
    """A token that might have been."""

    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(Struct):
    """A token of a chat reply."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Log-probabilities of a chat reply."""

    content: list[ContentLogprob]
    refusal: None = None


class TextLogprobs(Struct):
    """Log-probabilities of a text completion: one entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(Struct):
    """A function and its arguments, as JSON text."""

    name: str
    arguments: str


class ToolCall(Struct):
    """A call that the model wants made."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class FunctionDelta(Struct):
    """What a chunk adds to a call: the name first, then the arguments' JSON text in fragments."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct):
    """A call that the model wants made, in a stream; id and type come with its first chunk."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatMessage(Struct):
    """A whole reply."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One of a request's replies."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class ChatCompletion(Struct):
    """The answer of ``/v1/chat/completions``."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageInfo
    object: Literal["chat.completion"] = "chat.completion"


class ChatDelta(Struct):
    """What a chunk adds to a reply."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    """One reply's part of a chunk."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(Struct):
    """One event of a chat stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: UsageInfo | UnsetType | None = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class TextChoice(Struct):
    """One of a request's texts, or its part of a chunk."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: TextLogprobs | None = None


class TextCompletion(Struct):
    """The answer of ``/v1/completions``, and one event of its stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageInfo | UnsetType | None = UNSET
    object: Literal["text_completion"] = "text_completion"


class ModelInfo(Struct):
    """A model that can be asked for."""

    id: str
    created: int
    max_model_len: int | None
    context_length: int | None
    object: Literal["model"] = "model"
    owned_by: str = "mlxserve"


class ModelList(Struct):
    """The answer of ``/v1/models``."""

    data: list[ModelInfo]
    object: Literal["list"] = "list"


class VersionAnswer(Struct):
    """The answer of ``/version``."""

    version: str


class TokenizeAnswer(Struct):
    """The answer of ``/tokenize``."""

    tokens: list[int]
    count: int
    max_model_len: int | None
    token_strs: list[str] | UnsetType = UNSET


class DetokenizeAnswer(Struct):
    """The answer of ``/detokenize``."""

    prompt: str


class ErrorInfo(Struct):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """Any error."""

    error: ErrorInfo
