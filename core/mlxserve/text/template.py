"""A model's chat template: what is wrong with it, what it takes, and what it makes of messages."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from attrs import define, field
from jinja2 import TemplateSyntaxError

from mlxserve.text.lookalikes import Hidden, Lookalikes
from mlxserve.text.messages import normalised
from mlxserve.text.repairs import Chat, attempts
from mlxserve_hookspecs import RequestError

log = structlog.get_logger("mlxserve.text")

PROBE: Final = "quokka"
"""What a user says at the start, to see whether the template repeats it."""

OPEN_END: Final = "\ufdd2"
"""Marks the end of a message that is to be continued; no character of any text."""

Tools = Sequence[Mapping[str, Any]] | None


@define(eq=False)
class ChatTemplate:
    """Renders and tokenises conversations. Safe on any thread: it holds the tokenizer's lock.

    Attributes:
        wrapper: mlx-lm's ``TokenizerWrapper``.
        lock: Held while the tokenizer encodes.
        lookalikes: Keeps special tokens in messages from becoming control tokens; ``None`` lets
            them, as is usual.
        fault: Why nothing can be rendered, if nothing can.
        takes_parts: Whether it reads a message's content as parts only.
    """

    wrapper: Any
    lock: threading.Lock
    lookalikes: Lookalikes | None = None
    fault: str | None = field(init=False)
    takes_parts: bool = field(init=False, default=False)
    _told: set[tuple[str, ...]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        """Look what the template makes of one message."""
        self.fault, self.takes_parts = probe(self.wrapper)

    def tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Tools,
        generation_prompt: bool,
        continued: bool,
        extra: Mapping[str, Any],
    ) -> list[int]:
        """Return the tokens of a conversation; where the template refuses it, of a repaired one.

        Raises:
            RequestError: The template refuses every form of it (status 400).
        """
        chat = normalised(messages)
        refusal: Exception | None = None
        for repairs, tried in attempts(chat):
            try:
                found = self._tokens(tried, tools, generation_prompt, continued, extra)
            except RequestError:
                raise
            except Exception as error:  # a template is a program: it may raise anything
                refusal = refusal or error
            else:
                self._tell(repairs)
                return found
        raise _refused(refusal) from refusal

    def _tokens(
        self, chat: Chat, tools: Tools, prompted: bool, continued: bool, extra: Mapping[str, Any]
    ) -> list[int]:
        hidden = self.lookalikes.hidden() if self.lookalikes else None
        if hidden is not None:
            chat, tools = hidden.hide(chat), hidden.hide(tools)
        if continued:
            last = chat[-1]
            chat = [*chat[:-1], {**last, "content": f"{last['content']}{OPEN_END}"}]
        if self.takes_parts:
            chat = [{**message, "content": _parts(message["content"])} for message in chat]
        options = {
            "tools": [dict(tool) for tool in tools] if tools else None,
            "add_generation_prompt": prompted and not continued,
            **extra,
        }
        with self.lock:
            if hidden is None and not continued:
                return list(self.wrapper.apply_chat_template(chat, tokenize=True, **options))
            rendered = self.wrapper.apply_chat_template(chat, tokenize=False, **options)
            return self._encode(_open(rendered) if continued else rendered, hidden)

    def _encode(self, rendered: str, hidden: Hidden | None) -> list[int]:
        if hidden is None or self.lookalikes is None:
            return list(self.wrapper.encode(rendered, add_special_tokens=False))
        return self.lookalikes.encode(rendered, hidden)

    def _tell(self, repairs: tuple[str, ...]) -> None:
        if repairs and repairs not in self._told:
            self._told.add(repairs)
            log.info("the chat template takes messages in another form only", repairs=repairs)


def probe(wrapper: Any) -> tuple[str | None, bool]:
    """Return what is wrong with a tokenizer's chat template, and whether it reads parts only.

    Renders one message, which any template may refuse for reasons of its own; nothing is wrong
    with it then.
    """
    if not wrapper.has_chat_template:
        return None, False
    try:
        if _repeats(wrapper, PROBE):
            return None, False
        silent = True
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}", False
    except Exception:  # a template is a program: what it raises here is not about its syntax
        silent = False
    try:
        parts = _repeats(wrapper, _parts(PROBE))
    except Exception:  # as above
        parts = False
    dropped = "it leaves out what users say" if silent and not parts else None
    return dropped, parts


def _repeats(wrapper: Any, content: Any) -> bool:
    chat = [{"role": "user", "content": content}]
    return PROBE in wrapper.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def _parts(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": content}] if content else []


def _open(rendered: str) -> str:
    before, found, _ = rendered.rpartition(OPEN_END)
    if not found:
        message = "this model's chat template leaves out the message that is to be continued"
        raise RequestError(status=400, message=message, param="continue_final_message")
    return before


def _refused(error: Exception | None) -> RequestError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return RequestError(
        status=400,
        message=f"the model's chat template refuses these messages: {reason}",
        param="messages",
        code="chat_template_error",
    )
