"""Turn a reply's tokens into text while they arrive."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from mlxserve_hookspecs import TextCodec

UNKNOWN: Final = "\ufffd"
"""What a decoder puts in place of bytes that are no character (yet)."""

ANCHOR: Final = 8
"""Tokens that stay in the window as context: at least 8 bytes of text."""

LIMIT: Final = 24
"""Tokens at which the window is cut back to its anchor."""


@runtime_checkable
class TokenFacts(Protocol):
    """What a codec may know about single tokens."""

    def is_shown(self, token: int, *, skip_special_tokens: bool) -> bool:
        """Return whether decoding keeps the token at all."""

    def is_fallback_byte(self, token: int) -> bool:
        """Return whether the token is one byte of a run that is decoded as a whole."""


@runtime_checkable
class Spelled(Protocol):
    """A codec that may decode token by token."""

    def spelled(self, token: int) -> bytes | None:
        """Return the bytes that a token adds to any text; ``None``: that depends on others."""


class Detokenizer:
    """Streams the text of one reply.

    What ``add`` and ``finish`` return, joined, is what ``codec.decode`` makes of all tokens; with
    ``after``, what it makes of them after those tokens (a SentencePiece decoder leaves out the
    first space of a text, which a continuation has).

    A window of the last tokens is decoded again for each token, and what was not told yet is
    told. Two things can still change, and are held back:

    - A last U+FFFD: it may be the start of a character. Decoders put exactly one for an
      unfinished character (Unicode's "maximal subpart" practice), so one is enough.
    - A run of fallback bytes (``<0xF0><0x9F>...``): one wrong byte turns the whole run into
      U+FFFD, so the text of a run is certain only when a token of another kind ends it.

    Where each token stands for its own bytes (``Spelled``), these are decoded as they come, for a
    tenth of the time; a byte that may belong to a character to come is held back likewise.

    The window's start may lie within a character: the last 3 bytes before a token settle how it
    is read, and the anchor has more. An anchor that shows text has also taken up whatever the
    decoder does at the start of a text, such as stripping a space.
    """

    def __init__(
        self, codec: TextCodec, *, skip_special_tokens: bool, after: Sequence[int] = ()
    ) -> None:
        self._codec = codec
        self._facts = codec if isinstance(codec, TokenFacts) else None
        self._skip = skip_special_tokens
        self._spelled = codec if isinstance(codec, Spelled) else None
        if self._spelled is not None and self._spelled.spelled(0) is None:
            self._spelled = None
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        if self._spelled is not None:
            for token in after[-ANCHOR:]:
                self._utf8.decode(self._spelled.spelled(token) or b"")
            after = ()
        self._window = list(after[-ANCHOR:])
        self._told = len(_certain(self._decode(self._window))) if self._window else 0
        self._begun = False

    def add(self, token: int) -> str:
        """Take the next token and return the text that became certain."""
        if self._facts and not self._facts.is_shown(token, skip_special_tokens=self._skip):
            return ""
        self._begun = True
        if self._spelled is not None:
            return self._utf8.decode(self._spelled.spelled(token) or b"")
        self._window.append(token)
        if self._facts and self._facts.is_fallback_byte(token):
            return ""
        text = _certain(self._decode(self._window))
        fresh = text[self._told :]
        self._told = max(self._told, len(text))
        if len(self._window) >= LIMIT:
            self._shorten()
        return fresh

    def finish(self) -> str:
        """Return the rest: what was held back, as the decoder shows it at the end of a text."""
        if self._spelled is not None:
            return self._utf8.decode(b"", True) if self._begun else ""
        rest = self._decode(self._window)[self._told :] if self._begun else ""
        self._window, self._told, self._begun = [], 0, False
        return rest

    def _shorten(self) -> None:
        anchor = self._window[-ANCHOR:]
        text = self._decode(anchor)
        if len(text) > 1:  # else it may not have taken up what happens at the start of a text
            self._window, self._told = anchor, len(_certain(text))

    def _decode(self, tokens: list[int]) -> str:
        return self._codec.decode(tokens, skip_special_tokens=self._skip)


def _certain(text: str) -> str:
    return text[:-1] if text.endswith(UNKNOWN) else text
