"""From a body's system text and turns to the messages that chat templates know."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, assert_never

from attrs import define, field, frozen

from mlxserve_plugins.anthropic.bodies import (
    AnyBlock,
    AnyTurn,
    AssistantTurn,
    ContentSource,
    DocumentBlock,
    ImageBlock,
    PromptBody,
    RedactedThinkingBlock,
    ResultBlock,
    SearchResultBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from mlxserve_plugins.anthropic.omissions import without
from mlxserve_plugins.anthropic.thinking import thought_in
from mlxserve_plugins.surface.checks import refusal

REMINDER: Final = "<system-reminder>\n{}\n</system-reminder>"
"""Instructions within a conversation. Most templates refuse them or leave them out in silence
anywhere but at the start; as a part of what the user or a tool said every model reads them."""

FAILED: Final = "Error: {}"
"""What a tool answered that failed: templates have no place for the fact."""

Messages: TypeAlias = list[dict[str, Any]]


@frozen
class Conversation:
    """A conversation that is ready to be rendered.

    Attributes:
        messages: System, user, assistant and tool messages.
        continued: Whether the reply goes on with the last message.
    """

    messages: Messages
    continued: bool = False


def conversation_of(body: PromptBody, omit: Sequence[str]) -> Conversation:
    """Return the conversation of a body.

    Turns of one role that follow each other are one, as in Anthropic's own API.

    Args:
        body: What was sent.
        omit: Beginnings of lines of the system text that are left out.

    Raises:
        RequestError: A block has no place in its turn, or is none that this server reads.
    """
    writer = Writer()
    writer.instruct(_system(body, omit))
    for at, turn in enumerate(body.messages):
        writer.take(turn, f"messages[{at}]")
    return writer.conversation(f"messages[{len(body.messages) - 1}]")


def folded(messages: Messages) -> Messages:
    """Return messages in which what a user says right after a tool's answer is a part of it.

    For templates that want the model to speak after a tool.
    """
    made: Messages = []
    for message in messages:
        if message["role"] == "user" and made and made[-1]["role"] == "tool":
            made[-1] = {**made[-1], "content": _joined((made[-1]["content"], message["content"]))}
        else:
            made.append(message)
    return made


@define(eq=False)
class Writer:
    """Writes messages turn by turn."""

    messages: Messages = field(factory=list)
    _names: dict[str, str] = field(factory=dict)

    def instruct(self, text: str) -> None:
        """Add to the system text at the start."""
        if not text:
            return
        if self.messages:
            text = f"{self.messages[0]['content']}\n\n{text}"
        self.messages[:1] = [{"role": "system", "content": text}]

    def take(self, turn: AnyTurn, where: str) -> None:
        """Add a turn."""
        content = turn.content
        blocks = [TextBlock(text=content)] if isinstance(content, str) else content
        if isinstance(turn, AssistantTurn):
            self._answer(blocks, where)
        elif isinstance(turn, SystemTurn):
            text = "\n\n".join(_texts(blocks, where))
            at_start = all(message["role"] == "system" for message in self.messages)
            self.instruct(text) if at_start else self._remind(REMINDER.format(text))
        else:
            self._hear(blocks, where)

    def conversation(self, where: str) -> Conversation:
        """Return what was written; a reply goes on with the assistant's last words.

        Raises:
            RequestError: They end with a call that nobody answered.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return Conversation(self.messages)
        last = self.messages[-1]
        if "tool_calls" in last:
            message = f"`{where}` calls a tool: a `tool_result` must follow"
            raise refusal(where, message)
        if not last["content"]:
            return Conversation(self.messages[:-1])
        return Conversation(self.messages, continued=True)

    def _hear(self, blocks: Sequence[AnyBlock], where: str) -> None:
        if not blocks:
            self._say("")
        for at, block in enumerate(blocks):
            here = f"{where}.content[{at}]"
            if isinstance(block, ToolResultBlock):
                self._result(block, here)
            else:
                self._say(_text(block, here))

    def _say(self, text: str) -> None:
        self._extend(("user",), text)

    def _remind(self, text: str) -> None:
        # A user's turn after a tool's answer would make templates drop the thinking before it.
        self._extend(("user", "tool"), text)

    def _extend(self, roles: Sequence[str], text: str) -> None:
        if self.messages and self.messages[-1]["role"] in roles:
            self.messages[-1]["content"] = _joined((self.messages[-1]["content"], text))
        else:
            self.messages.append({"role": "user", "content": text})

    def _result(self, block: ToolResultBlock, where: str) -> None:
        text = block.content or ""
        if not isinstance(text, str):
            text = _joined(_texts(text, where))
        message = {
            "role": "tool",
            "content": FAILED.format(text) if block.is_error else text,
            "tool_call_id": block.tool_use_id,
        }
        if block.tool_use_id in self._names:
            message["name"] = self._names[block.tool_use_id]
        self.messages.append(message)

    def _answer(self, blocks: Sequence[AnyBlock], where: str) -> None:
        message = self._assistant()
        for at, block in enumerate(blocks):
            if isinstance(block, ThinkingBlock):
                if thought := thought_in(block):
                    earlier = message.get("reasoning_content", "")
                    message["reasoning_content"] = _joined((earlier, thought))
            elif isinstance(block, ToolUseBlock):
                self._names[block.id] = block.name
                function = {"name": block.name, "arguments": block.input}
                call = {"type": "function", "id": block.id, "function": function}
                message.setdefault("tool_calls", []).append(call)
            elif not isinstance(block, RedactedThinkingBlock):
                message["content"] += _text(block, f"{where}.content[{at}]")

    def _assistant(self) -> dict[str, Any]:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _system(body: PromptBody, omit: Sequence[str]) -> str:
    system = body.system or ""
    texts = [system] if isinstance(system, str) else [block.text for block in system]
    kept = (without(text, omit) for text in texts)
    return "\n\n".join(text for text in kept if text.strip())


def _texts(blocks: Iterable[AnyBlock], where: str) -> list[str]:
    return [_text(block, f"{where}.content[{at}]") for at, block in enumerate(blocks)]


def _text(block: AnyBlock, where: str) -> str:
    match block:
        case TextBlock():
            return block.text
        case ImageBlock():
            message = f"`{where}` is an image: this server reads text only"
            raise refusal(f"{where}.type", message, "unsupported_parameter")
        case DocumentBlock():
            return _document(block, where)
        case SearchResultBlock():
            return _joined((block.title, block.source, *(part.text for part in block.content)))
        case ToolReferenceBlock():
            return block.tool_name
        case ToolResultBlock() | ToolUseBlock() | ThinkingBlock() | RedactedThinkingBlock():
            message = f"`{where}` is a block that has no place in this turn"
            raise refusal(f"{where}.type", message)
        case _:
            assert_never(block)


def _document(block: DocumentBlock, where: str) -> str:
    source = block.source
    if not isinstance(source, ContentSource):
        text = source.data
    elif isinstance(source.content, str):
        text = source.content
    else:
        parts: Sequence[ResultBlock] = source.content
        text = _joined(_texts(parts, f"{where}.source"))
    return _joined((block.title or "", block.context or "", text))


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(text for text in texts if text)
