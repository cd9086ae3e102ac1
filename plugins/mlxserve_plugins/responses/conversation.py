"""From items to the messages that chat templates know."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from attrs import define, field

from mlxserve_plugins.responses.items import (
    CallOutput,
    CustomCall,
    FunctionCall,
    Item,
    Message,
    Placed,
    Thinking,
    text_of,
)
from mlxserve_plugins.responses.toolbox import custom_arguments, flat

Json: TypeAlias = dict[str, Any]


def messages_of(instructions: str | None, items: Sequence[Placed]) -> list[Json]:
    """Return a conversation: what the assistant did between two others is one message.

    Instructions, and system and developer messages that follow them, are one system message,
    because many templates take one only.

    Raises:
        RequestError: Content is not text.
    """
    talk = Conversation()
    if instructions:
        talk.tell("system", instructions)
    for where, item in items:
        talk.add(item, where)
    return talk.messages


@define(eq=False)
class Conversation:
    """Messages so far."""

    messages: list[Json] = field(factory=list)
    _names: dict[str, str] = field(factory=dict)

    def add(self, item: Item, where: str) -> None:
        """Add what an item says."""
        if isinstance(item, Message):
            self._add_message(item, where)
        elif isinstance(item, FunctionCall):
            self._add_call(item.call_id, flat(item.name, item.namespace), item.arguments)
        elif isinstance(item, CustomCall):
            arguments = custom_arguments(item.input)
            self._add_call(item.call_id, flat(item.name, item.namespace), arguments)
        elif isinstance(item, CallOutput):
            self._add_output(item, where)
        elif isinstance(item, Thinking):
            self._add_thinking(item, where)

    def tell(self, role: str, text: str) -> None:
        """Add what somebody says; a second system message goes into the first."""
        last = self.messages[-1] if self.messages else None
        if last is not None and role == last["role"] == "system":
            last["content"] += f"\n\n{text}"
            return
        self.messages.append({"role": role, "content": text})

    def _add_message(self, item: Message, where: str) -> None:
        text = text_of(item.content, f"{where}.content")
        if item.role != "assistant":
            self.tell("user" if item.role == "user" else "system", text)
            return
        turn = self._turn()
        if turn["content"] or "tool_calls" in turn:
            turn = self._begin()
        turn["content"] = text

    def _add_call(self, call_id: str, name: str, arguments: str) -> None:
        self._names[call_id] = name
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._turn().setdefault("tool_calls", []).append(call)

    def _add_output(self, item: CallOutput, where: str) -> None:
        text = text_of(item.output, f"{where}.output")
        message: Json = {"role": "tool", "content": text}
        if item.call_id is not None:
            message["tool_call_id"] = item.call_id
        name = self._names.get(item.call_id or "")
        if name is not None:
            message["name"] = name
        self.messages.append(message)

    def _add_thinking(self, item: Thinking, where: str) -> None:
        parts, name = (item.content, "content") if item.content else (item.summary, "summary")
        text = text_of(parts, f"{where}.{name}")
        if not text:
            return
        turn = self._turn()
        if turn["content"] or "tool_calls" in turn:
            turn = self._begin()
        before = turn.get("reasoning_content")
        turn["reasoning_content"] = f"{before}\n\n{text}" if before else text

    def _turn(self) -> Json:
        """Return the assistant's message that is still open, or begin one."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            return self.messages[-1]
        return self._begin()

    def _begin(self) -> Json:
        self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]
