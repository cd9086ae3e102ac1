"""From GGUF's vocabulary to a Hugging Face tokenizer."""

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from mlxserve_hookspecs import ModelError
from mlxserve_plugins.gguf.reader import GgufFile

# GGUF's kinds of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5

QWEN2_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write ``tokenizer.json``, its configuration and the chat template into ``folder``.

    Raises:
        ModelError: The vocabulary is of a kind that we cannot rebuild exactly.
    """
    tokens, kinds = vocabulary(file)
    tokenizer = make_tokenizer(file)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind in (CONTROL, UNKNOWN), normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = tokenizer_config(file, tokens)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if template := config.get("chat_template"):
        (folder / "chat_template.jinja").write_text(template, "utf-8")


def make_tokenizer(file: GgufFile) -> Tokenizer:
    """Return the tokenizer without its added tokens; raises like ``write_tokenizer``."""
    kind = file.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(file)
    # Gemma's alone: others put a space in front and merge by score.
    if kind == "llama" and file.architecture == "gemma3":
        return _sentence_piece(file)
    raise ModelError(
        f"{file.name} cannot be converted: a {kind!r} tokenizer in {file.architecture!r} "
        f"is not supported"
    )


def vocabulary(file: GgufFile) -> tuple[list[str], list[int]]:
    """Return the tokens and their kinds."""
    tokens = [str(token) for token in file.get("tokenizer.ggml.tokens")]
    kinds = [int(kind) for kind in file.get("tokenizer.ggml.token_type")]
    if len(tokens) != len(kinds):
        raise ModelError(f"{file.name} is damaged: {len(tokens)} tokens, {len(kinds)} kinds")
    if file.get("tokenizer.ggml.model") == "llama":
        # Runs of spaces are the one thing GGUF spells unlike SentencePiece.
        tokens = [token if token.strip(" ") else token.replace(" ", "▁") for token in tokens]
    return tokens, kinds


def tokenizer_config(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """Return what ``tokenizer_config.json`` says."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.of_model("context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(file.get("tokenizer.ggml.add_bos_token", False)),
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = file.get(f"tokenizer.ggml.{theirs}_token_id", None)
        if number is not None:
            config[f"{ours}_token"] = tokens[number]
    if file.get("tokenizer.ggml.model") == "gpt2" and (
        config.get("pad_token") == config.get("bos_token")
    ):
        config["bos_token"] = None  # Qwen has none; GGUF names its padding
    if template := file.get("tokenizer.chat_template", None):
        config["chat_template"] = template
    return config


def stop_tokens(file: GgufFile) -> list[int]:
    """Return the tokens that end a reply: the end of text, and the ends of a turn."""
    tokens = file.get("tokenizer.ggml.tokens")
    stops = [int(file.get("tokenizer.ggml.eos_token_id"))]
    turn = file.get("tokenizer.ggml.eot_token_id", None)
    ends = [turn] if turn is not None else []
    ends += [tokens.index(end) for end in ("<|endoftext|>", "<end_of_turn>") if end in tokens]
    return list(dict.fromkeys(stops + ends))


def _byte_level(file: GgufFile) -> Tokenizer:
    tokens, kinds = vocabulary(file)
    vocab = {token: i for i, token in enumerate(tokens) if kinds[i] != UNUSED}
    merges = [_pair(file, merge) for merge in file.get("tokenizer.ggml.merges")]
    try:
        tokenizer = Tokenizer(models.BPE(vocab, merges))
    except Exception as error:  # the library raises no narrower class
        raise ModelError(f"{file.name} is damaged: its vocabulary: {error}") from error
    kind = file.get("tokenizer.ggml.pre")
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    elif kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        raise ModelError(
            f"{file.name} cannot be converted: pre-tokenizer {kind!r} is not supported "
            f"(smollm and qwen2 are)"
        )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(file: GgufFile, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise ModelError(f"{file.name} is damaged: {merge!r} is no merge of two tokens")
    return left, right


def _sentence_piece(file: GgufFile) -> Tokenizer:
    """Return SentencePiece BPE as Hugging Face writes Gemma's: merges in order of id."""
    tokens, kinds = vocabulary(file)
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == NORMAL or not token.strip("▁"):
            splits = ((token[:i], token[i:]) for i in range(1, len(token)))
            pairs = [(a, b) for a, b in splits if a in vocab and b in vocab]
            merges += sorted(pairs, key=lambda pair: (len(pair[0]), len(pair[1])))
    unknown = tokens[file.get("tokenizer.ggml.unknown_token_id")]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    if file.get("tokenizer.ggml.add_bos_token", False):
        bos = file.get("tokenizer.ggml.bos_token_id")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A",
            pair=f"{tokens[bos]} $A {tokens[bos]}:1 $B:1",
            special_tokens=[(tokens[bos], bos)],
        )
    return tokenizer
