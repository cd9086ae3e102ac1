"""Small real tokenizers of the families that models have, trained here in milliseconds."""

from collections.abc import Callable

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mlxserve.text.tokenizer import Tokenizer

CORPUS = [
    "the cat sat on the mat, and the dog ate the hat.",
    "héllo wörld naïve café",
    "日本語 日本",
]
SPECIAL = ["<s>", "</s>", "<|im_start|>"]

CHAT = """{% for message in messages %}\
{% if message.role == 'tool' and not tools %}{{ raise_exception('no tools here') }}{% endif %}\
<|im_start|>{{ message.role }}: {{ message.content }}\
{% for call in message.tool_calls or [] %}{{ call.function.arguments.city }}{% endfor %}\
</s>{% endfor %}\
{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}\
{% if mood %}({{ mood }}){% endif %}\
{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"""


def byte_level() -> Backend:
    """GPT-2's family: every byte has a character, tokens may hold parts of characters."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece(*, strip: bool) -> Backend:
    """Llama's and Gemma's family: ``▁`` for a space, ``<0xNN>`` where characters are missing."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [
        "▁",
        "▁▁",
        "t",
        "h",
        "e",
        "c",
        "a",
        ".",
        "é",
        "日",
        "\ufffd",
        "▁t",
        "he",
        "▁the",
        "▁c",
    ]
    merges = [("▁", "▁"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if strip else "never")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return backend


def wrapped(backend: Backend, chat_template: str | None = CHAT) -> TokenizerWrapper:
    """Return what mlx-lm hands out; the added tokens spell spaces and non-ASCII letters."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=chat_template
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.add_tokens(["two words", "ßß"])
    return TokenizerWrapper(fast)


FAMILIES: dict[str, Callable[[], Backend]] = {
    "byte-level": byte_level,
    "sentencepiece-strip": lambda: sentencepiece(strip=True),
    "sentencepiece-no-strip": lambda: sentencepiece(strip=False),
}


@pytest.fixture(scope="session", params=list(FAMILIES))
def wrapper(request: pytest.FixtureRequest) -> TokenizerWrapper:
    """One tokenizer of each family."""
    return wrapped(FAMILIES[request.param]())


@pytest.fixture(scope="session")
def codec(wrapper: TokenizerWrapper) -> Tokenizer:
    """The server's view of it."""
    return Tokenizer(wrapper)


@pytest.fixture(scope="session")
def byte_level_codec() -> Tokenizer:
    """The server's view of a byte-level tokenizer."""
    return Tokenizer(wrapped(byte_level()))


@pytest.fixture(scope="session")
def sentencepiece_codec() -> Tokenizer:
    """The server's view of a tokenizer with fallback bytes that strips the first space."""
    return Tokenizer(wrapped(sentencepiece(strip=True)))


@pytest.fixture(scope="session")
def mute_codec() -> Tokenizer:
    """A model without a chat template."""
    return Tokenizer(wrapped(byte_level(), chat_template=None))
