import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_hookspecs import TokenLogprob
from mlxserve_plugins.openai.logprobs import (
    LEAST,
    OffsetCounter,
    TokenNames,
    chat_logprobs,
    text_logprobs,
)

from .fake_engine import FakeText

NAMES = TokenNames(FakeText())


@given(text=st.text(max_size=20))
def test_offsets_of_single_bytes_are_where_their_characters_begin(text: str) -> None:
    offsets = OffsetCounter()
    found = [offsets.take(bytes([byte])) for byte in text.encode()]
    assert found == [at for at, one in enumerate(text) for _ in one.encode()]


@given(texts=st.lists(st.text(min_size=1, max_size=5)))
def test_offsets_of_whole_texts_are_their_lengths_so_far(texts: list[str]) -> None:
    offsets = OffsetCounter()
    found = [offsets.take(text.encode()) for text in texts]
    assert found == [len("".join(texts[:at])) for at in range(len(texts))]


@pytest.mark.parametrize("value", [-math.inf, math.nan, -1e300], ids=str)
def test_a_probability_of_nothing_is_a_number_in_json(value: float) -> None:
    one = TokenLogprob(65, value, ((65, value),))
    chat = msgspec.json.decode(msgspec.json.encode(chat_logprobs([one], NAMES)))
    assert chat["content"][0]["logprob"] == LEAST
    assert chat["content"][0]["top_logprobs"][0]["logprob"] == LEAST
    text = text_logprobs([one], NAMES, OffsetCounter())
    assert (text.token_logprobs, text.top_logprobs) == ([LEAST], [{"A": LEAST}])


def test_a_token_that_is_not_among_the_best_is_named_beside_them() -> None:
    one = TokenLogprob(65, -3.0, ((66, -0.1), (67, -0.2)))
    assert text_logprobs([one], NAMES, OffsetCounter()).top_logprobs == [
        {"B": -0.1, "C": -0.2, "A": -3.0}
    ]


ECHOES: dict[str, tuple[str, list[tuple[bytes, bool]], list[int]]] = {
    "SentencePiece's space": ("The cat", [(b" The", False), (b" cat", False)], [0, 3]),
    "a token that begins every text": (
        "The cat", [(b"<s>", True), (b"The", False), (b" cat", False)], [0, 0, 3],
    ),
    "one that the text spells": ("<s>The", [(b"<s>", True), (b"The", False)], [0, 3]),
    "both": ("The", [(b"<s>", True), (b" The", False)], [0, 0]),
    "a space that is the text's own": (" The", [(b" The", False)], [0]),
    "parts of a character": (
        "\u00e9a", [(b"\xc3", False), (b"\xa9", False), (b"a", False)], [0, 0, 1],
    ),
    "what the tokenizer wrote otherwise": ("\u212b!", [(b"X", False), (b"!", False)], [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "tokens", "begins"), ECHOES.values(), ids=ECHOES)
def test_offsets_of_an_echo_are_places_in_its_text(
    text: str, tokens: list[tuple[bytes, bool]], begins: list[int]
) -> None:
    offsets = OffsetCounter(text.encode())
    assert [offsets.take(raw, special=special) for raw, special in tokens] == begins


def test_the_reply_begins_where_its_echo_ends() -> None:
    offsets = OffsetCounter(b"The cat")
    for raw in (b" The", b" cat"):
        offsets.take(raw)
    assert [offsets.take(raw) for raw in (b" sat", b" on")] == [7, 11]
