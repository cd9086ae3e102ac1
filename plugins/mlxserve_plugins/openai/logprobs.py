"""Log-probabilities in the forms of both endpoints."""

import codecs
import math
from collections.abc import Iterable, Sequence

from attrs import define, field

from mlxserve_hookspecs import TextCodec, TokenLogprob
from mlxserve_plugins.openai.answers import (
    ChatLogprobs,
    ContentLogprob,
    TextLogprobs,
    TopLogprob,
)

LEAST = -9999.0
"""What OpenAI writes for a probability of nothing; JSON has no infinity."""


@define(eq=False)
class TokenNames:
    """What tokens are called in an answer; remembers those it has seen."""

    text: TextCodec
    _bytes: dict[int, bytes] = field(factory=dict)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that ``token`` stands for."""
        if token not in self._bytes:
            self._bytes[token] = self.text.token_bytes(token)
        return self._bytes[token]

    def of(self, token: int) -> str:
        r"""Return the token's text; part of a character is written ``bytes:\xf0\x9f``."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_logprobs(found: Iterable[TokenLogprob], names: TokenNames) -> ChatLogprobs:
    """Return the form of chat completions."""
    return ChatLogprobs(
        [
            ContentLogprob(
                token=names.of(one.token),
                logprob=finite(one.logprob),
                bytes=list(names.bytes_of(one.token)),
                top_logprobs=[_top(token, logprob, names) for token, logprob in one.top],
            )
            for one in found
        ]
    )


@define(eq=False)
class OffsetCounter:
    """Where each token begins in the text; a character belongs to the token that completes it.

    An echoed prompt's tokens are more than its text: one that the tokenizer put in front of it is
    nowhere in it, nor is the space that SentencePiece puts there.

    Attributes:
        echo: What the text begins with, as UTF-8, as far as no token stands for it yet.
    """

    echo: bytes = b""
    _decoder: codecs.IncrementalDecoder = field(
        factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    _at: int = 0

    def take(self, raw: bytes, *, special: bool = False) -> int:
        """Return where the next token begins, and count it in.

        Args:
            raw: The bytes that it stands for.
            special: Whether it is no text, unless the text spells it.
        """
        begins = self._at
        self._at += len(self._decoder.decode(self._within(raw, special) if self.echo else raw))
        return begins

    def _within(self, raw: bytes, special: bool) -> bytes:
        for shown in (raw, raw.removeprefix(b" ")):
            if self.echo.startswith(shown):
                break
        else:
            shown = b"" if special else raw
        self.echo = self.echo[len(shown) :]
        return shown


def text_logprobs(
    found: Iterable[TokenLogprob], names: TokenNames, offsets: OffsetCounter
) -> TextLogprobs:
    """Return the form of text completions."""
    form = TextLogprobs([], [], [], [])
    for one in found:
        _add(form, one.token, names, offsets)
        form.token_logprobs.append(finite(one.logprob))
        form.top_logprobs.append(_top_by_name(one, names))
    return form


def prompt_text_logprobs(
    prompt: Sequence[int],
    found: Iterable[TokenLogprob],
    names: TokenNames,
    offsets: OffsetCounter,
) -> TextLogprobs:
    """Return the form of text completions for a prompt, whose first token nothing predicts."""
    form = TextLogprobs([], [None], [None], [])
    _add(form, prompt[0], names, offsets)
    rest = text_logprobs(found, names, offsets)
    return join(form, rest)


def join(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Return both, one after the other."""
    return TextLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )


def finite(logprob: float) -> float:
    """Return ``logprob`` as JSON can hold it."""
    return max(logprob, LEAST) if not math.isnan(logprob) else LEAST


def _add(form: TextLogprobs, token: int, names: TokenNames, offsets: OffsetCounter) -> None:
    form.tokens.append(names.of(token))
    special = token in names.text.special_token_ids
    form.text_offset.append(offsets.take(names.bytes_of(token), special=special))


def _top(token: int, logprob: float, names: TokenNames) -> TopLogprob:
    return TopLogprob(names.of(token), finite(logprob), list(names.bytes_of(token)))


def _top_by_name(one: TokenLogprob, names: TokenNames) -> dict[str, float]:
    # OpenAI always has the token itself among them; of two tokens with one text the best counts.
    pairs = [*one.top, (one.token, one.logprob)]
    by_name: dict[str, float] = {}
    for token, logprob in pairs:
        by_name.setdefault(names.of(token), finite(logprob))
    return by_name
