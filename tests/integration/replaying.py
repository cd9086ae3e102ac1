"""Send a recorded request as it is, and read the answer with the SDK of its API."""

from typing import Any

from anthropic import Anthropic
from anthropic import Stream as AnthropicStream
from anthropic.types import Message, RawMessageStreamEvent
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from .agent_loops import Turn
from .recordings import Sent

KINDS: dict[str, tuple[Any, Any, Any, str]] = {
    "/v1/chat/completions": (
        OpenAI, ChatCompletion, Stream[ChatCompletionChunk], "[DONE]"),
    "/v1/responses": (OpenAI, Response, Stream[ResponseStreamEvent], "response."),
    "/v1/messages": (
        Anthropic, Message, AnthropicStream[RawMessageStreamEvent], "message_stop"),
}  # fmt: skip


def replay(url: str, sent: Sent) -> Turn | None:
    """Send a request through its SDK's transport; return its usage, if the client asked for it.

    Raises:
        APIStatusError: The answer's status is not 200.
        ValidationError: The SDK's type of an event or of the answer does not fit.
    """
    sdk, whole, stream, _ = KINDS[sent.path.partition("?")[0]]
    with sdk(base_url=url, api_key="none", max_retries=0) as client:
        got = client.post(
            sent.path,
            body=sent.body,
            options={"headers": sent.headers},
            cast_to=whole,
            stream=bool(sent.body.get("stream")),
            stream_cls=stream,
        )
        answers = list(got) if sent.body.get("stream") else [got]
    assert answers, "an empty stream"
    for one in answers:
        type(one).model_validate(one.to_dict())
    return usage_of([one.to_dict() for one in answers])


def usage_of(answers: list[dict[str, Any]]) -> Turn | None:
    """Return what the last usage among events or answers says."""
    found: dict[str, Any] = {}
    for one in answers:
        for place in (one, one.get("message") or {}, one.get("response") or {}):
            found |= place.get("usage") or {}
    if not found:
        return None
    if "prompt_tokens" in found:
        cached = (found.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Turn(found["prompt_tokens"], cached, found["completion_tokens"])
    if "input_tokens_details" in found:
        cached = found["input_tokens_details"]["cached_tokens"]
        return Turn(found["input_tokens"], cached, found["output_tokens"])
    cached = found.get("cache_read_input_tokens") or 0
    return Turn(found["input_tokens"] + cached, cached, found["output_tokens"])
