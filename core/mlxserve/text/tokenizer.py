"""The model's tokenizer and chat template, as the rest of the server sees them."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateSyntaxError

from mlxserve.text.markup import markup_of
from mlxserve.text.messages import check_unicode, normalised
from mlxserve.text.pieces import Pieces
from mlxserve_hookspecs import Markup, RequestError

RESERVED: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Arguments of the renderer itself, which no client may set: a template of its own, for one."""

OPENING: Final = 24
"""Tokens at a prompt's end among which a template's opening of the thinking is looked for."""


class Tokenizer:
    """A ``TextCodec`` over mlx-lm's ``TokenizerWrapper``. Safe on any thread.

    Encoding is done under a lock: it sets truncation and padding on the shared Rust object, which
    fails with "Already borrowed" while another thread reads it. Decoding only reads and takes no
    lock, so that the engine never waits for a long prompt; for that, truncation and padding are
    turned off once here, and encoding has nothing to change later.

    Spaces before punctuation are never "cleaned up", whatever the tokenizer's settings: a reply
    is what the model said.
    """

    def __init__(self, wrapper: Any) -> None:
        backend = getattr(wrapper, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        wrapper.clean_up_tokenization_spaces = False
        self._wrapper = wrapper
        self._pieces = Pieces(wrapper)
        self._markup = markup_of(wrapper, self._pieces.special)
        self.template_fault = template_fault(wrapper)
        self._lock = threading.Lock()

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a reply."""
        return frozenset(self._wrapper.eos_token_ids)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The tokens that are no text: what ``skip_special_tokens`` leaves out."""
        return self._pieces.special

    @property
    def markup(self) -> Markup:
        """How the model marks its thinking and its tool calls."""
        return self._markup

    @markup.setter
    def markup(self, found: Markup) -> None:
        self._markup = found

    @property
    def chat_template(self) -> str:
        """The source of the chat template; empty if there is none, or it is a program."""
        template = getattr(self._wrapper, "chat_template", None)
        if isinstance(template, Mapping):  # several by name
            template = template.get("tool_use") or template.get("default")
        return template if isinstance(template, str) else ""

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered: there is a template, and it is one."""
        return bool(self._wrapper.has_chat_template) and self.template_fault is None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return token ids; with ``add_special_tokens`` what the model expects at the start.

        Raises:
            RequestError: ``text`` holds half of a surrogate pair, which is no character.
        """
        check_unicode(text)
        with self._lock:
            return list(self._wrapper.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of ``tokens``; those that the vocabulary lacks add nothing.

        Raises:
            RequestError: A token cannot be one: negative, or far too large.
        """
        try:
            text = self._wrapper.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise RequestError(
                status=400, message="a token id is out of range", param="tokens"
            ) from error
        return str(text)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation, ready for a reply.

        Raises:
            RequestError: The template refuses the messages (status 400), or there is none.
        """
        extra = dict(template_kwargs or {})
        self._check_chat(messages, extra)
        chat = normalised(messages)
        try:
            with self._lock:
                rendered = self._wrapper.apply_chat_template(
                    chat,
                    tools=[dict(tool) for tool in tools] if tools else None,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=True,
                    **extra,
                )
        except Exception as error:  # a template is a program: it may raise anything
            raise _template_refusal(error) from error
        return list(rendered)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for; a special token's are its name."""
        return self._pieces.bytes_of(token)

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Return whether a reply to ``prompt`` begins within the model's thinking.

        Templates open it at the very end, if at all: in what a user wrote it opens nothing.
        """
        if not self._markup.think_start:
            return False
        tail = self.decode(prompt[-OPENING:])
        _, opened, after = tail.rpartition(self._markup.think_start)
        return bool(opened) and not after.strip()

    def is_shown(self, token: int, *, skip_special_tokens: bool) -> bool:
        """Return whether ``decode`` keeps the token at all."""
        hidden = skip_special_tokens and token in self._pieces.special
        return not hidden and self._pieces.piece(token) is not None

    def is_fallback_byte(self, token: int) -> bool:
        """Return whether the token is one byte of a run that is decoded as a whole."""
        return token in self._pieces.fallback_bytes

    def _check_chat(self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> None:
        if self.template_fault is not None:
            raise RequestError(
                status=400,
                message=f"this model's chat template is broken ({self.template_fault}); "
                "send a plain prompt instead",
                code="chat_template_broken",
            )
        if not self.has_chat_template:
            raise RequestError(
                status=400,
                message="this model has no chat template; send a plain prompt instead",
                code="no_chat_template",
            )
        if not messages:
            raise RequestError(status=400, message="there are no messages", param="messages")
        taken = sorted(RESERVED & extra.keys())
        if taken:
            raise RequestError(
                status=400,
                message=f"{', '.join(taken)} cannot be given to the chat template",
                param="chat_template_kwargs",
            )


def template_fault(wrapper: Any) -> str | None:
    """Return what is wrong with the syntax of a tokenizer's chat template; ``None`` if nothing.

    Compiles it by rendering one message, which any template may refuse for reasons of its own.
    """
    if not wrapper.has_chat_template:
        return None
    try:
        wrapper.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except Exception:  # a template is a program: what it raises here is not about its syntax
        return None
    return None


def _template_refusal(error: Exception) -> RequestError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return RequestError(
        status=400,
        message=f"the model's chat template refuses these messages: {reason}",
        param="messages",
        code="chat_template_error",
    )
