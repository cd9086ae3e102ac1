"""Agents as their SDKs make them: each turn a forced call, its answer, the whole history again."""

from collections.abc import Mapping
from typing import Any, Protocol

from anthropic import Anthropic
from attrs import define, field, frozen
from openai import OpenAI

MODEL = "tiny"
SYSTEM = "{0}: you look after a folder of notes. Look before you answer; keep to what is written."
"""What the agents of one API are told; none begins as another's."""

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"path": {"type": "string", "enum": ["milk.txt", "cat.txt", "rent.txt"]}},
    "required": ["path"],
    "additionalProperties": False,
}
NAME, ABOUT = "read_note", "Reads one of the notes."
SAID = "1\tBuy milk and bread.\n2\tFeed the cat, twice; the \u201cgrey\u201d one.\n"


@frozen
class Turn:
    """What a turn took, in tokens.

    Attributes:
        prompt: All of the prompt.
        cached: What of it was not computed.
        reply: What was generated.
    """

    prompt: int
    cached: int
    reply: int


class Loop(Protocol):
    """An agent's conversation."""

    def turn(self) -> Turn:
        """Ask, note the call, answer it; the history has grown."""

    def say(self, text: str) -> None:
        """Let the user speak."""


@define
class Chat:
    """Chat completions, with OpenAI's SDK, which streams them."""

    url: str
    words: str
    _history: list[Any] = field(factory=list)

    def say(self, text: str) -> None:
        """Append a user's message."""
        self._history += (
            [] if self._history else [{"role": "system", "content": SYSTEM.format("chat")}]
        )
        self._history.append({"role": "user", "content": text})

    def turn(self) -> Turn:
        """Ask through the SDK's own stream helper."""
        if not self._history:
            self.say(self.words)
        function = {"name": NAME, "description": ABOUT, "parameters": PARAMETERS, "strict": True}
        asked: dict[str, Any] = {
            "model": MODEL,
            "messages": self._history,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
        }
        asked["stream_options"] = {"include_usage": True}
        with (
            OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client,
            client.chat.completions.stream(**asked) as stream,
        ):
            done = stream.get_final_completion()
        message = done.choices[0].message
        (call,) = message.tool_calls or []
        self._history += [
            message.to_dict(),
            {"role": "tool", "tool_call_id": call.id, "content": SAID},
        ]
        usage = done.usage
        assert usage
        assert usage.prompt_tokens_details
        cached = usage.prompt_tokens_details.cached_tokens or 0
        return Turn(usage.prompt_tokens, cached, usage.completion_tokens)


@define
class Messages:
    """Messages, with Anthropic's SDK, which streams them."""

    url: str
    words: str
    _history: list[Any] = field(factory=list)

    def say(self, text: str) -> None:
        """Add a block to the last user's message, as Claude Code does, or make one."""
        block = {"type": "text", "text": text}
        if self._history and self._history[-1]["role"] == "user":
            self._history[-1]["content"].append(block)
        else:
            self._history.append({"role": "user", "content": [block]})

    def turn(self) -> Turn:
        """Ask through the SDK's stream helper; the last block is marked for the cache."""
        if not self._history:
            self.say(self.words)
        for message in self._history:
            for block in message["content"]:
                if isinstance(block, dict):
                    block.pop("cache_control", None)
        self._history[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        asked: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 200,
            "system": [
                {
                    "type": "text",
                    "text": SYSTEM.format("messages"),
                    "cache_control": {"type": "ephemeral"},
                }
            ],
            "messages": self._history,
            "tools": [{"name": NAME, "description": ABOUT, "input_schema": PARAMETERS}],
            "tool_choice": {"type": "any"},
        }
        with (
            Anthropic(base_url=self.url, api_key="none", max_retries=0) as client,
            client.messages.stream(**asked) as stream,
        ):
            done = stream.get_final_message()
        (call,) = (block for block in done.content if block.type == "tool_use")
        answer = {"type": "tool_result", "tool_use_id": call.id, "content": SAID}
        self._history += [
            {"role": "assistant", "content": done.content},
            {"role": "user", "content": [answer]},
        ]
        cached = done.usage.cache_read_input_tokens or 0
        return Turn(done.usage.input_tokens + cached, cached, done.usage.output_tokens)


@define
class Responses:
    """Responses, with OpenAI's SDK: the whole history, as Codex sends it, or what is new."""

    url: str
    words: str
    kept: bool = False
    _history: list[Any] = field(factory=list)
    _before: str | None = None

    def say(self, text: str) -> None:
        """Append a user's message."""
        self._history.append({"role": "user", "content": text})

    def turn(self) -> Turn:
        """Ask with the SDK's stream helper."""
        if not self._history:
            self.say(self.words)
        tool = {
            "type": "function",
            "name": NAME,
            "description": ABOUT,
            "parameters": PARAMETERS,
            "strict": True,
        }
        asked: dict[str, Any] = {
            "model": MODEL,
            "instructions": SYSTEM.format("kept" if self.kept else "responses"),
            "input": self._history,
            "tools": [tool],
            "tool_choice": "required",
            "store": self.kept,
        }
        if self._before:
            asked["previous_response_id"] = self._before
        with (
            OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client,
            client.responses.stream(**asked) as stream,
        ):
            done = stream.get_final_response()
        (call,) = (item for item in done.output if item.type == "function_call")
        said = {"type": "function_call_output", "call_id": call.call_id, "output": SAID}
        if self.kept:
            self._before, self._history = done.id, [said]
        else:
            self._history += [item.to_dict() for item in done.output] + [said]
        usage = done.usage
        assert usage
        cached = usage.input_tokens_details.cached_tokens
        return Turn(usage.input_tokens, cached, usage.output_tokens)


def kept_responses(url: str, words: str) -> Responses:
    """Return a loop that names the response before."""
    return Responses(url, words, kept=True)


SHAPES: Mapping[str, Any] = {
    "chat completions": Chat,
    "messages": Messages,
    "responses": Responses,
    "previous_response_id": kept_responses,
}
