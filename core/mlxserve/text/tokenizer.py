"""The model's tokenizer and chat template, as the rest of the server sees them."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import evolve

from mlxserve.text.lookalikes import Lookalikes
from mlxserve.text.markup import markup_of
from mlxserve.text.messages import check_unicode
from mlxserve.text.pieces import Pieces
from mlxserve.text.template import ChatTemplate
from mlxserve.text.toolless import ignores_tools
from mlxserve_hookspecs import Markup, ModelError, RequestError

SpecialTokens: TypeAlias = Literal["keep", "text"]
"""What special tokens that a message spells become: themselves, or text like any other."""

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

    Args:
        wrapper: mlx-lm's ``TokenizerWrapper``.
        special_tokens: What those become that messages of a chat spell.

    Raises:
        ModelError: ``special_tokens`` is ``text``, and the tokenizer cannot tell.
    """

    def __init__(self, wrapper: Any, special_tokens: SpecialTokens = "keep") -> None:
        backend = getattr(wrapper, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        wrapper.clean_up_tokenization_spaces = False
        self._spelled: dict[int, bytes] = {}
        self._wrapper = wrapper
        self._pieces = Pieces(wrapper)
        self._markup = evolve(
            markup_of(wrapper, self._pieces.special), ignores_tools=ignores_tools(wrapper)
        )
        self._lock = threading.Lock()
        lookalikes = None
        if special_tokens == "text":
            if backend is None:
                raise ModelError("--chat-special-tokens text needs a tokenizer.json")
            lookalikes = Lookalikes(backend, self._pieces.special)
        self._template = ChatTemplate(wrapper, self._lock, lookalikes)
        self.template_fault = self._template.fault

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
        """How the model marks its thinking and its calls."""
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

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a client may know: the class, the chat template, the special tokens."""
        inner = getattr(self._wrapper, "_tokenizer", self._wrapper)
        names = {int(token): self._pieces.piece(token) for token in sorted(self._pieces.special)}
        length = getattr(inner, "model_max_length", None)
        return {
            "tokenizer_class": type(inner).__name__,
            "chat_template": getattr(inner, "chat_template", None),
            "model_max_length": length if isinstance(length, int) and length < 2**31 else None,
            "special_tokens": {str(token): name for token, name in names.items()},
            "eos_token_ids": sorted(self.eos_token_ids),
        }

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
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation, ready for a reply.

        Messages that the template refuses are merged as a person would, if it takes them then.
        With ``continue_final_message`` the last message is left open.

        Raises:
            RequestError: The template refuses the messages (status 400), or there is none.
        """
        extra = dict(template_kwargs or {})
        self._check_chat(messages, extra)
        return self._template.tokens(
            messages,
            tools=tools,
            generation_prompt=add_generation_prompt,
            continued=continue_final_message,
            extra=extra,
        )

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for; a special token's are its name."""
        return self._pieces.bytes_of(token)

    def spelled(self, token: int) -> bytes | None:
        """Return what one token adds to any text; ``None`` where that depends on the others."""
        if not self._pieces.independent:
            return None
        if (known := self._spelled.get(token)) is None:
            known = self._spelled[token] = self._pieces.bytes_of(token)
        return known

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
