"""What single tokens stand for: the vocabulary as bytes."""

import json
import re
from functools import cache
from itertools import product
from typing import Any, Final, Literal, TypeAlias

Spelling: TypeAlias = Literal["byte-level", "sentencepiece", "text"]
"""How a vocabulary spells bytes: in GPT-2's alphabet, as ``<0xNN>`` and ``▁``, or not at all."""

SPACE: Final = "▁"
FALLBACK: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """The pieces of a tokenizer's vocabulary. Read only: safe on any thread.

    Args:
        tokenizer: A Hugging Face tokenizer, or a wrapper that forwards to one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        kinds = _decoder_kinds(self._backend)
        self.spelling = _spelling(tokenizer, self._backend, kinds)
        self.independent = kinds == {"ByteLevel"}
        """Whether a text is its tokens' bytes, one after the other."""
        self.special = self._special_tokens()
        falls_back = self.spelling == "sentencepiece" and (
            self._backend is None or "ByteFallback" in kinds
        )
        self.fallback_bytes = self._fallback_tokens() if falls_back else frozenset[int]()

    def piece(self, token: int) -> str | None:
        """Return a token as the vocabulary spells it; ``None`` if there is no such token."""
        if token < 0:
            return None
        if self._backend is not None:
            return self._backend.id_to_token(token)  # type: ignore[no-any-return]
        return self._tokenizer.convert_ids_to_tokens(token)  # type: ignore[no-any-return]

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text; none for a token that is unknown."""
        piece = self.piece(token)
        if piece is None:
            return b""
        if self.spelling == "byte-level":
            return _byte_level(piece)
        if token in self.special:
            return piece.encode()
        if token in self.fallback_bytes:
            return bytes([int(piece[3:5], 16)])
        if self.spelling == "sentencepiece":
            return piece.replace(SPACE, " ").encode()
        return str(self._tokenizer.decode([token])).encode()

    def _special_tokens(self) -> frozenset[int]:
        if self._backend is None:
            return frozenset(self._tokenizer.all_special_ids)
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token for token, word in added.items() if word.special)

    def _fallback_tokens(self) -> frozenset[int]:
        digits = "0123456789abcdefABCDEF"
        names = [f"<0x{high}{low}>" for high, low in product(digits, digits)]
        if self._backend is not None:
            found = (self._backend.token_to_id(name) for name in names)
            return frozenset(token for token in found if token is not None)
        vocabulary = self._tokenizer.get_vocab()
        return frozenset(token for piece, token in vocabulary.items() if FALLBACK.fullmatch(piece))


def _spelling(tokenizer: Any, backend: Any, kinds: frozenset[str]) -> Spelling:
    if backend is None:
        return "byte-level" if hasattr(tokenizer, "byte_decoder") else "sentencepiece"
    if "ByteLevel" in kinds:
        return "byte-level"
    if kinds & {"ByteFallback", "Metaspace"}:
        return "sentencepiece"
    return "text"


def _decoder_kinds(backend: Any) -> frozenset[str]:
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return frozenset()
    # The library shows a decoder's parts in its pickled state (JSON) only.
    state = json.loads(decoder.__getstate__())
    parts = [state, *state.get("decoders", ())]
    return frozenset(str(part.get("type")) for part in parts)


def _byte_level(piece: str) -> bytes:
    alphabet = _gpt2_alphabet()
    try:
        return bytes(alphabet[char] for char in piece)
    except KeyError:  # an added token, whose text is not spelt in the alphabet
        return piece.encode()


@cache
def _gpt2_alphabet() -> dict[str, int]:
    """Return the byte of each character by which GPT-2's encoder.py spells it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelt = {chr(byte): byte for byte in printable}
    return spelt | {chr(256 + index): byte for index, byte in enumerate(others)}
