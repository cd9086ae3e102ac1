"""Special tokens that are spelt out in a message: text, and not the model's own control tokens."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around the number of what was hidden: Unicode's noncharacters, which no text should have."""


@define(eq=False)
class Hidden:
    """What was taken out of one chat's texts.

    Attributes:
        pattern: Finds the names of special tokens.
        words: What was found, in order.
        nonce: Keeps what a client made up from being taken for one of ours.
    """

    pattern: "re.Pattern[str]"
    words: list[str] = field(factory=list)
    nonce: str = field(factory=lambda: str(secrets.randbits(48)))

    def hide(self, value: Any) -> Any:
        """Return ``value``, deeply, with a mark in place of each name of a special token."""
        if isinstance(value, str):
            return self.pattern.sub(self._mark, value)
        if isinstance(value, Mapping):
            return {self.hide(name): self.hide(inner) for name, inner in value.items()}
        if isinstance(value, Sequence):
            return [self.hide(inner) for inner in value]
        return value

    def show(self, rendered: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text with the names back in place, and where they are."""
        marks = re.compile(f"{OPEN}{self.nonce}\\.([0-9]+){CLOSE}")
        text, spans, end = "", [], 0
        for found in marks.finditer(rendered):
            text += rendered[end : found.start()]
            word = self.words[int(found[1])]
            spans.append((len(text), len(text) + len(word)))
            text, end = text + word, found.end()
        return text + rendered[end:], spans

    def _mark(self, found: "re.Match[str]") -> str:
        self.words.append(found[0])
        return f"{OPEN}{self.nonce}.{len(self.words) - 1}{CLOSE}"


class Lookalikes:
    """Tokenises rendered chats so that what messages spell stays text.

    Args:
        backend: The Rust tokenizer.
        special: Its special tokens.
    """

    def __init__(self, backend: Any, special: frozenset[int]) -> None:
        self._backend = backend
        self._special = special
        names = sorted(filter(None, map(backend.id_to_token, special)), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def hidden(self) -> Hidden:
        """Return what takes the names of special tokens out of one chat."""
        return Hidden(self._pattern)

    def encode(self, rendered: str, hidden: Hidden) -> list[int]:
        """Return the tokens of a rendered chat; those of what was hidden spell it."""
        text, spans = hidden.show(rendered)
        found = self._backend.encode(text, add_special_tokens=False)
        if not spans:
            return list(found.ids)
        tokens: list[int] = []
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            span = next((s for s in spans if s[0] < end and start < s[1]), None)
            if token not in self._special or span is None:
                tokens.append(token)
            else:
                tokens += self._spelt(text[slice(*span)])
        return tokens

    def _spelt(self, word: str) -> list[int]:
        """Return the tokens of a special token's name, as they are within a text."""
        self._backend.encode_special_tokens = True
        try:
            before = self._ids(".")
            after = self._ids(f".{word}")
            # A tokenizer may put a space at the start of a text.
            within = after[: len(before)] == before
            return after[len(before) :] if within else self._ids(word)
        finally:
            self._backend.encode_special_tokens = False

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)
