"""A model folder as a hub has it, with random weights, made in a second."""

import json
from pathlib import Path
from typing import Any, Final

VOCAB: Final = 288
CONFIG: Final = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
SPECIAL: Final = ["<|end|>", "<|user|>", "<|assistant|>"]
CHAT: Final = """{% for message in messages %}\
{% if message.content == 'raise' %}{{ raise_exception('this template does not like it') }}\
{% endif %}<|user|>{{ message.content }}<|end|>\
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def write_model(folder: Path, *, chat_template: str = CHAT) -> Path:
    """Write a llama of 288 byte-level tokens with weights of a fixed seed; return ``folder``.

    Args:
        folder: To be made; must not exist.
        chat_template: The Jinja source of its chat template. The default's raises for a message
            ``raise``.
    """
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import save_config, save_model

    folder.mkdir()
    mx.random.seed(7)
    make: Any = ModelArgs.from_dict  # untyped
    save_model(folder, Model(make(CONFIG)))
    save_config(dict(CONFIG), folder / "config.json")
    _write_tokenizer(folder, chat_template)
    return folder


def _write_tokenizer(folder: Path, chat_template: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(["one token, two tokens; the other tokens"], trainer)
    backend.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), "utf-8")
