from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxserve.batch.sequence import sequences_of
from mlxserve.text.detokenizer import LIMIT, Detokenizer
from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import GenerationRequest, SamplingParams, StopConditions

TEXTS = {
    "plain": "the cat sat on the mat",
    "leading space": "  the cat",
    "emoji": "a😀👩‍👩‍👧‍👦🏳️‍🌈 z",
    "combining": "e\u0301o\u0308\u0323 नमस्ते กำ",
    "many emoji": "😀🥳" * 40,
    "zero byte": "a\x00b\x00",
    "replacement character": "\ufffd\ufffd the \ufffd",
    "byte order mark": "\ufeffthe\ufeff",
    "line ends": "the\r\n\r\ncat\n",
    "special": "the<|im_start|>cat</s>日本",
}


def streamed(codec: Tokenizer, tokens: Sequence[int], *, skip: bool) -> str:
    detokenizer = Detokenizer(codec, skip_special_tokens=skip)
    return "".join(detokenizer.add(token) for token in tokens) + detokenizer.finish()


def spelt_in_bytes(codec: Tokenizer, text: str) -> list[int]:
    """Return single-byte tokens, so that every character is split at every byte."""
    by_bytes = {codec.token_bytes(token): token for token in reversed(range(340))}
    return [by_bytes[bytes([byte])] for byte in text.encode()]


@pytest.mark.parametrize("skip", [True, False], ids=["skipping", "keeping"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_stream_of_a_text_is_its_decoding(codec: Tokenizer, text: str, skip: bool) -> None:
    for tokens in (codec.encode(text, add_special_tokens=False), spelt_in_bytes(codec, text)):
        for start in range(min(len(tokens), LIMIT)):
            expected = codec.decode(tokens[start:], skip_special_tokens=skip)
            assert streamed(codec, tokens[start:], skip=skip) == expected


@settings(max_examples=300, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_the_stream_of_any_tokens_is_their_decoding(
    codec: Tokenizer, wrapper: TokenizerWrapper, data: st.DataObject, skip: bool
) -> None:
    size = len(wrapper)
    one = st.one_of(
        st.integers(0, size + 2),  # the logits of some models are wider than the vocabulary
        st.sampled_from(sorted(codec._pieces.special)),
        st.sampled_from(spelt_in_bytes(codec, "😀é€\x80\xff a")),
    )
    run = st.builds(lambda token, count: [token] * count, one, st.integers(1, 2 * LIMIT))
    parts = data.draw(st.lists(st.one_of(st.lists(one, max_size=12), run), max_size=6))
    tokens = [token for part in parts for token in part]
    expected = wrapper.decode(tokens, skip_special_tokens=skip)
    assert streamed(codec, tokens, skip=skip) == expected


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_text_that_was_encoded_comes_back_however_it_is_split(
    byte_level_codec: Tokenizer, text: str
) -> None:
    for tokens in (
        byte_level_codec.encode(text, add_special_tokens=False),
        spelt_in_bytes(byte_level_codec, text),
    ):
        assert streamed(byte_level_codec, tokens, skip=False) == text


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=80))
def test_bytes_that_are_no_text_stream_as_they_decode(codec: Tokenizer, raw: bytes) -> None:
    by_bytes = {codec.token_bytes(token): token for token in reversed(range(340))}
    tokens = [by_bytes[bytes([byte])] for byte in raw]
    assert streamed(codec, tokens, skip=True) == codec.decode(tokens)


def test_an_unfinished_character_is_held_back(byte_level_codec: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level_codec, skip_special_tokens=True)
    told = [detokenizer.add(token) for token in spelt_in_bytes(byte_level_codec, "a😀b")]
    assert told == ["a", "", "", "", "😀", "b"]


def test_text_is_told_as_soon_as_it_is_certain(codec: Tokenizer) -> None:
    detokenizer = Detokenizer(codec, skip_special_tokens=True)
    tokens = codec.encode("the cat ate the hat", add_special_tokens=False)
    plain = [token for token in tokens if not codec.is_fallback_byte(token)]
    for count, token in enumerate(plain, start=1):
        told = detokenizer.add(token)
        assert told == codec.decode(plain[:count])[len(codec.decode(plain[: count - 1])) :]


def test_a_run_of_fallback_bytes_waits_for_its_end(sentencepiece_codec: Tokenizer) -> None:
    detokenizer = Detokenizer(sentencepiece_codec, skip_special_tokens=True)
    run = spelt_in_bytes(sentencepiece_codec, "😀😀")
    assert [detokenizer.add(token) for token in run] == [""] * 8
    (following,) = sentencepiece_codec.encode("日", add_special_tokens=False)[-1:]
    assert detokenizer.add(following) == "😀😀日"


def test_one_wrong_byte_spoils_its_run_as_the_tokenizer_says(
    sentencepiece_codec: Tokenizer,
) -> None:
    run = [*spelt_in_bytes(sentencepiece_codec, "é"), *spelt_in_bytes(sentencepiece_codec, "é")[:1]]
    assert streamed(sentencepiece_codec, run, skip=True) == "\ufffd\ufffd\ufffd"


class Counting:
    """A codec that counts how many tokens it was asked to decode, and knows no token's facts."""

    eos_token_ids = frozenset[int]()

    def __init__(self, codec: Tokenizer) -> None:
        self.codec = codec
        self.decoded = 0

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        self.decoded += len(tokens)
        return self.codec.decode(tokens, skip_special_tokens=skip_special_tokens)

    encode = render_chat = token_bytes = None


@pytest.mark.parametrize("byte", [0x61, 0xF0, 0x80, 0xFF], ids=hex)
def test_the_cost_of_a_token_does_not_grow(byte_level_codec: Tokenizer, byte: int) -> None:
    token = next(t for t in range(340) if byte_level_codec.token_bytes(t) == bytes([byte]))
    counting = Counting(byte_level_codec)
    detokenizer = Detokenizer(counting, skip_special_tokens=True)  # type: ignore[arg-type]
    text = "".join(detokenizer.add(token) for _ in range(2000)) + detokenizer.finish()
    assert text == byte_level_codec.decode([token] * 2000)
    assert counting.decoded < 2000 * (LIMIT + 1)


def test_context_of_nothing_but_hidden_tokens_is_no_context(sentencepiece_codec: Tokenizer) -> None:
    the, cat = (
        sentencepiece_codec.encode(word, add_special_tokens=False) for word in ("the", "cat")
    )
    tokens = [*the, *(list(sentencepiece_codec.eos_token_ids) * LIMIT), *cat]
    counting = Counting(sentencepiece_codec)
    assert streamed(counting, tokens, skip=True) == "the cat"  # type: ignore[arg-type]


def test_a_reply_of_nothing_is_empty(codec: Tokenizer) -> None:
    assert streamed(codec, [], skip=True) == ""


@pytest.mark.parametrize("skip", [False, True], ids=["shown", "skipped"])
def test_a_continuation_reads_as_the_tokenizer_would_decode_it_there(
    codec: Tokenizer, skip: bool
) -> None:
    prompt = codec.encode("the cat the cat the cat")
    reply = codec.encode("the cat", add_special_tokens=False)
    detokenizer = Detokenizer(codec, skip_special_tokens=skip, after=prompt)
    text = "".join([*(detokenizer.add(token) for token in reply), detokenizer.finish()])
    before = codec.decode(prompt, skip_special_tokens=skip)
    assert before + text == codec.decode([*prompt, *reply], skip_special_tokens=skip)


def test_a_sentencepiece_reply_keeps_its_leading_space(sentencepiece_codec: Tokenizer) -> None:
    prompt, reply = (sentencepiece_codec.encode(text) for text in ("the", "the the"))
    alone = Detokenizer(sentencepiece_codec, skip_special_tokens=True)
    after = Detokenizer(sentencepiece_codec, skip_special_tokens=True, after=prompt)
    assert "".join(map(alone.add, reply)) == "the the"
    assert "".join(map(after.add, reply)) == " the the"


def test_a_prompt_that_ends_within_a_character_is_gone_on_with(byte_level_codec: Tokenizer) -> None:
    tokens = byte_level_codec.encode("🦊", add_special_tokens=False)
    assert len(tokens) == 4
    cut = Detokenizer(byte_level_codec, skip_special_tokens=True, after=tokens[:2])
    assert cut.finish() == ""
    whole = Detokenizer(byte_level_codec, skip_special_tokens=True, after=tokens[:2])
    assert "".join([*map(whole.add, tokens[2:]), whole.finish()]) == "🦊"


@pytest.mark.parametrize(("continues", "text"), [(True, " the the"), (False, "the the")])
def test_a_request_says_whether_its_text_goes_on_with_the_prompts(
    sentencepiece_codec: Tokenizer, continues: bool, text: str
) -> None:
    request = GenerationRequest(
        id="a",
        prompt=tuple(sentencepiece_codec.encode("the")),
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=9),
        continues=continues,
    )
    (sequence,) = sequences_of(
        request, arrived=0, seed=0, uids=[1], text=sentencepiece_codec, max_tokens=9
    )
    reply = sentencepiece_codec.encode("the the", add_special_tokens=False)
    assert "".join(map(sequence.detokenizer.add, reply)) == text
