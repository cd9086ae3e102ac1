"""From Ollama's bodies to those of OpenAI's API, which the rest is made of."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mlxserve_plugins.ollama.bodies import ChatBody, GenerateBody, Message, SharedBody
from mlxserve_plugins.ollama.fields import OPTIONS
from mlxserve_plugins.openai import bodies as openai
from mlxserve_plugins.surface.checks import refusal
from mlxserve_plugins.surface.decoding import explain
from mlxserve_plugins.surface.fields import read_fields
from mlxserve_plugins.surface.notes import Notes

T = TypeVar("T")

TAG = ":latest"


def model_name(name: str) -> str:
    """Return a model's name without the tag that Ollama's clients add."""
    return name.removesuffix(TAG)


def chat_of(body: ChatBody, notes: Notes) -> openai.ChatBody:
    """Return a chat.

    Raises:
        RequestError: It cannot be said, or has an image (status 400).
    """
    messages = [_message(one, f"messages[{at}]") for at, one in enumerate(body.messages or [])]
    more = {"messages": messages, "tools": body.tools}
    return _converted({**_shared(body, notes), **more}, openai.ChatBody)


def conversation_of(body: GenerateBody, notes: Notes) -> openai.ChatBody:
    """Return the chat that a prompt is, with its instructions; raises like ``chat_of``."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    messages = [*system, {"role": "user", "content": body.prompt}]
    return _converted({**_shared(body, notes), "messages": messages}, openai.ChatBody)


def text_of(body: GenerateBody, notes: Notes) -> openai.CompletionBody:
    """Return the text completion that a raw prompt is; raises like ``chat_of``."""
    fields = {**_shared(body, notes), "prompt": body.prompt}
    for name in ("enable_thinking", "reasoning_effort"):
        if fields.pop(name, None) is not None:
            notes.add("think", "ignored", "raw")
    return _converted(fields, openai.CompletionBody)


def _shared(body: SharedBody, notes: Notes) -> dict[str, Any]:
    fields = read_fields(body.options or {}, OPTIONS, notes)
    fields |= {"model": model_name(body.model), "stream": body.stream is not False}
    if body.format is not None:
        fields["response_format"] = _form(body.format)
    if isinstance(body.think, bool):
        fields["enable_thinking"] = body.think
    elif body.think is not None:
        fields |= {"enable_thinking": True, "reasoning_effort": body.think}
    return fields


def _form(wanted: str | Mapping[str, Any]) -> dict[str, Any]:
    if wanted == "json":
        return {"type": "json_object"}
    if isinstance(wanted, str):
        raise refusal("format", f"`format` is {wanted!r}: it can be 'json' or a JSON schema")
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": dict(wanted)}}


def _message(message: Message, where: str) -> dict[str, Any]:
    if message.images:
        words = f"`{where}.images` has images: this server reads text only"
        raise refusal(f"{where}.images", words, "unsupported_parameter")
    plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.thinking:
        plain["reasoning_content"] = message.thinking
    if message.tool_name:
        plain["name"] = message.tool_name
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _converted(fields: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
