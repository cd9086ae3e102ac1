"""What clients get: the response and its items. A field with ``UNSET`` is left out."""

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, field

from mlxserve_plugins.openai.answers import ContentLogprob, ErrorInfo

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class TextPart(Struct, kw_only=True, tag_field="type", tag="output_text"):
    """A message's text."""

    text: str
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[ContentLogprob] = field(default_factory=list)


class SummaryPart(Struct, kw_only=True, tag_field="type", tag="summary_text"):
    """Thinking, where the client asked for a summary."""

    text: str


class ThoughtPart(Struct, kw_only=True, tag_field="type", tag="reasoning_text"):
    """Thinking."""

    text: str


class OutputItem(Struct, kw_only=True, tag_field="type"):
    """One thing that the model did."""

    id: str
    status: ItemStatus = "in_progress"


class MessageItem(OutputItem, tag="message"):
    """It said something."""

    content: list[TextPart]
    role: Literal["assistant"] = "assistant"


class ReasoningItem(OutputItem, tag="reasoning"):
    """It thought."""

    summary: list[SummaryPart]
    content: list[ThoughtPart] | UnsetType = UNSET


class FunctionCallItem(OutputItem, tag="function_call"):
    """It wants a function called."""

    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class CustomCallItem(OutputItem, tag="custom_tool_call"):
    """It wants a custom tool called."""

    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


AnyItem: TypeAlias = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem


class InputDetails(Struct):
    """Where the prompt's KV came from; nothing is charged for writing a cache."""

    cached_tokens: int
    cached_tokens_by_tier: dict[str, int] | UnsetType = UNSET
    cache_write_tokens: int = 0


class OutputDetails(Struct):
    """What the reply's tokens were."""

    reasoning_tokens: int


class ResponseUsage(Struct):
    """What a response cost."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFault(Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(Struct):
    """Why a response was cut."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(Struct, kw_only=True):
    """A response, as far as it has come, with what was asked."""

    id: str
    created_at: int
    model: str
    status: Status
    output: list[AnyItem]
    completed_at: int | None = None
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: ResponseUsage | None = None
    instructions: str | None
    previous_response_id: str | None
    store: bool
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    text: dict[str, Any]
    max_output_tokens: int | None
    max_tool_calls: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    truncation: str
    metadata: dict[str, str]
    service_tier: str
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    background: bool = False
    object: Literal["response"] = "response"


class DeletedResponse(Struct):
    """The answer of ``DELETE /v1/responses/{id}``."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(Struct, kw_only=True):
    """The answer of ``GET /v1/responses/{id}/input_items``."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class ResponsesError(Struct):
    """Any error, in OpenAI's shape."""

    error: ErrorInfo
