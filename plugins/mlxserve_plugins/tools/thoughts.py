"""The families' marks of thinking, and the switches that their chat templates have for it."""

import re
from typing import Final

from attrs import frozen


@frozen(kw_only=True)
class ThoughtForm:
    """How the models of a family mark their thinking.

    Attributes:
        name: What ``--thinking-format`` calls it.
        start: Opens it.
        end: Closes it.
        close: What is said to end it early; empty: a line break, ``end`` and an empty line.
        answer: Stands before every answer, where an answer has a header.
    """

    name: str
    start: str
    end: str
    close: str = ""
    answer: str = ""


NONE: Final = ThoughtForm(name="none", start="", end="")
THOUGHTS: Final = (
    ThoughtForm(  # openai/harmony, docs/format.md
        name="harmony",
        start="<|channel|>analysis<|message|>",
        end="<|end|>",
        close="<|end|><|start|>assistant<|channel|>final<|message|>",
        answer="<|channel|>final<|message|>",
    ),
    # ByteDance-Seed/Seed-OSS-36B-Instruct, README, "thinking budget"
    ThoughtForm(name="seed", start="<seed:think>", end="</seed:think>", close="</seed:think>"),
    # MiniMaxAI/MiniMax-M3, chat_template.jinja
    ThoughtForm(name="minimax-m3", start="<mm:think>", end="</mm:think>"),
    # mistralai/Magistral-Small-2507, SYSTEM_PROMPT.txt and mistral-common
    ThoughtForm(name="mistral", start="[THINK]", end="[/THINK]", close="[/THINK]"),
    ThoughtForm(  # CohereLabs/command-a-reasoning-08-2025, chat_template.jinja
        name="cohere",
        start="<|START_THINKING|>",
        end="<|END_THINKING|>",
        close="<|END_THINKING|>",
    ),
    # meituan-longcat/LongCat-Flash-Thinking, tokenizer_config.json
    ThoughtForm(name="longcat", start="<longcat_think>", end="</longcat_think>"),
    # mlx-lm, tokenizer_utils.py
    ThoughtForm(name="think-colon", start="<|think:start|>", end="<|think:end|>"),
    # google/gemma-4, by mlx-lm's tokenizer_utils.py
    ThoughtForm(name="gemma4", start="<|channel>thought", end="<channel|>", close="<channel|>"),
    ThoughtForm(  # ibm-granite/granite-3.2-8b-instruct, README
        name="granite",
        start="Here is my thought process:",
        end="Here is my response:",
    ),
    # DeepSeek-R1, Qwen3, QwQ, GLM-4.5, ERNIE, Hunyuan, Nemotron, SmolLM3 and many others
    ThoughtForm(name="think", start="<think>", end="</think>"),
)
THOUGHTS_BY_NAME: Final = {form.name: form for form in (*THOUGHTS, NONE)}

SWITCHES: Final = (
    "enable_thinking",
    "thinking",
    "reasoning",
    "reasoning_effort",
    "thinking_budget",
    "thinking_mode",
)
"""Variables of chat templates: Qwen3's and most others' first; DeepSeek V3.1's and Granite 3.2's;
Cohere's; gpt-oss' and Seed's; Seed's again; MiniMax M3's."""

_EXPRESSIONS: Final = re.compile(r"\{[{%](.*?)[}%]\}", re.DOTALL)
_STRINGS: Final = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")


def switches_of(template: str) -> tuple[str, ...]:
    """Return the switches that a template reads, in our order."""
    code = " ".join(_STRINGS.sub("''", one) for one in _EXPRESSIONS.findall(template))
    return tuple(name for name in SWITCHES if re.search(rf"(?<![\w.]){name}\b", code))
