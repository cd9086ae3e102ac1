"""Tiny models for agents: any architecture, a template with tools and thinking, a long context."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.tiny import ARCHITECTURES, BASE

CONTEXT = 262_144
SPECIAL = (
    "<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>", "<think>", "</think>",
)  # fmt: skip

# As Qwen 3 has it: calls between tags; the thinking of a turn is told until a user speaks; a reply
# opens with an empty thinking, which no history has.
CHAT = """\
{%- set said = namespace(system='', last=0) %}\
{%- if messages[0].role == 'system' %}{% set said.system = messages[0].content %}{% endif %}\
{%- for one in messages %}{% if one.role == 'user' %}{% set said.last = loop.index0 %}{% endif %}\
{%- endfor %}\
{%- if said.system or tools %}<|im_start|>system
{{ said.system }}
{%- for tool in tools or [] %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}\
{%- for one in messages %}{% if not (loop.first and one.role == 'system') %}<|im_start|>\
{{- 'user' if one.role == 'tool' else one.role }}
{% if one.role == 'tool' %}<tool_response>
{{ one.content }}
</tool_response>\
{%- else %}\
{%- if one.reasoning_content and loop.index0 > said.last %}<think>
{{ one.reasoning_content }}
</think>

{% endif %}\
{{- one.content or '' }}\
{%- for call in one.tool_calls or [] %}\
{%- if one.content or not loop.first %}{{ '\\n' }}{% endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>\
{%- endfor %}{% endif %}<|im_end|>
{% endif %}{% endfor %}\
{%- if add_generation_prompt %}<|im_start|>assistant
<think>

</think>

{% endif %}"""


def write_agents_model(
    folder: Path, architecture: str, *, texts: Sequence[str] = (), vocab: int = 320
) -> Path:
    """Write a model with random weights of a fixed seed; return ``folder``.

    Args:
        folder: It must not exist.
        architecture: One of ``tests.engine.tiny``'s.
        texts: What the vocabulary is learnt from; without, every byte is a token, so that a text
            has one spelling.
        vocab: Tokens, if texts are given.
    """
    import importlib

    import mlx.core as mx
    from mlx_lm.utils import save_config, save_model

    folder.mkdir(parents=True)
    size = _write_tokenizer(folder, texts, vocab)
    config = {"model_type": architecture, **BASE, **ARCHITECTURES[architecture]}
    config |= {"vocab_size": size, "max_position_embeddings": CONTEXT}
    mx.random.seed(7)
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    save_model(folder, module.Model(module.ModelArgs.from_dict(config)))
    save_config(dict(config), folder / "config.json")
    return folder


def _write_tokenizer(folder: Path, texts: Sequence[str], vocab: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.save(str(folder / "tokenizer.json"))
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts), "utf-8")
    return backend.get_vocab_size()
