"""A tokenizer without files: a token is a byte."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlxserve_hookspecs import Markup

END: Final = 256
"""The token that ends a reply."""

WIDTH: Final = 288
"""The width of logits that goes with it: 31 tokens more than it knows, as models have."""


class Bytes:
    """Implements ``TextCodec`` over the bytes of UTF-8.

    Attributes:
        markup: How its model marks thinking and calls.
    """

    eos_token_ids = frozenset({END})
    special_token_ids = frozenset({END})
    has_chat_template = False

    def __init__(self, markup: Markup | None = None) -> None:
        self.markup = markup or Markup()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the bytes of ``text``."""
        del add_special_tokens
        return list(text.encode())

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of bytes; tokens that are none have no text."""
        del skip_special_tokens
        return bytes(token for token in tokens if token < END).decode(errors="replace")

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> list[int]:
        """Return the contents of the messages, one a line."""
        return self.encode("\n".join(str(message.get("content")) for message in messages))

    def token_bytes(self, token: int) -> bytes:
        """Return the byte."""
        return bytes([token]) if token < END else b""

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Return False."""
        del prompt
        return False
