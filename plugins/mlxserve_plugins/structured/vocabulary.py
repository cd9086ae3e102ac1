"""The model's vocabulary, as llguidance wants it."""

from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from mlxserve_hookspecs import TextCodec


class Vocabulary:
    """A codec under the names by which llguidance's ``TokenizerWrapper`` asks for it.

    Args:
        text: The served tokenizer.
        size: Tokens: the width of the logits, and one more where the model has no end of sequence.
    """

    bos_token_id: int | None = None

    def __init__(self, text: TextCodec, size: int) -> None:
        self._text = text
        ends = {token for token in text.eos_token_ids if token < size}
        # Without an end of sequence the grammar's own is a token past the logits: never sampled.
        self.ends = sorted(ends) or [size]
        self.eos_token_id = self.ends[0]
        self.tokens: Sequence[bytes] = [text.token_bytes(token) for token in range(size)]
        if not ends:
            self.tokens = [*self.tokens, b"<end>"]
        special = text.special_token_ids | {*self.ends}
        self.special_token_ids = sorted(token for token in special if token < len(self.tokens))
        self._by_bytes = {
            piece: token
            for token, piece in enumerate(self.tokens)
            if piece and token not in special
        }
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, text: str) -> list[int]:
        """Return the tokens that spell exactly ``text``: a forced text is said in these."""
        tokens = self._text.encode(text, add_special_tokens=False)
        if self._spelt(tokens) == text.encode():
            return tokens
        # Some tokenizers begin every text with a space.
        return self._greedily(text.encode())

    def _spelt(self, tokens: Sequence[int]) -> bytes | None:
        if not all(0 <= token < len(self.tokens) for token in tokens):
            return None
        return b"".join(self.tokens[token] for token in tokens)

    def _greedily(self, text: bytes) -> list[int]:
        found: list[int] = []
        at = 0
        while at < len(text):
            sizes = range(min(self._longest, len(text) - at), 0, -1)
            size = next((n for n in sizes if text[at : at + n] in self._by_bytes), None)
            if size is None:
                return found
            found.append(self._by_bytes[text[at : at + size]])
            at += size
        return found


def tokenizer_of(text: TextCodec, size: int) -> LLTokenizer:
    """Return llguidance's tokenizer; takes a second for 150,000 tokens."""
    vocabulary = Vocabulary(text, size)
    return LLTokenizer(
        TokenizerWrapper(vocabulary),
        n_vocab=len(vocabulary.tokens),
        eos_token=vocabulary.ends,
        slices=LLTokenizer.json_slices(),
    )
