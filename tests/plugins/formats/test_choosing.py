"""A model's forms follow from its template and vocabulary, unless a user names them."""

from typing import Any

import pytest

from mlxserve_hookspecs import Markup, SettingError
from mlxserve_plugins.tools import Tools, ToolsOptions
from mlxserve_plugins.tools.choosing import choose, markup_for
from mlxserve_plugins.tools.families import BY_NAME
from mlxserve_plugins.tools.thoughts import switches_of

from ..openai.fake_engine import EOS, FakeText


class Words(FakeText):
    """Knows some words as tokens of their own, special ones."""

    def __init__(self, *words: str, markup: Markup | None = None) -> None:
        super().__init__()
        self.words = words
        self.special_token_ids = frozenset({EOS, *range(300, 300 + len(words))})
        if markup is not None:
            self.markup = markup

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if text in self.words:
            return [300 + self.words.index(text)]
        return super().encode(text)

    def token_bytes(self, token: int) -> bytes:
        return self.words[token - 300].encode() if token >= 300 else super().token_bytes(token)


TEMPLATES = {
    "hermes": "{{- '\\n<tool_call>\\n{\"name\": \"' }}{{- '</tool_call>' }}",
    "qwen3-coder": "{{- '<tool_call>\\n<function=' + tool_call.name + '>\\n' }}</tool_call>",
    "glm": "<tool_call>{{ tc.name }}<arg_key>{{ k }}</arg_key></tool_call>",
    "harmony": '{{- "<|start|>assistant<|channel|>analysis<|message|>" }}',
    "llama3": "<|start_header_id|>ipython<|end_header_id|> <|python_tag|>",
    "llama4": "<|header_start|>assistant<|header_end|>",
    "deepseek-v3": "<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + '```json'",
    "deepseek-v3.1": "<｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>'",
    "deepseek-v3.2": "<｜DSML｜function_calls>",
    "granite": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>",
    "phi4": "<|tool|>{{ tools }}<|/tool|><|tool_call|>",
    "cohere": "<|START_ACTION|>[",
    "seed-oss": "<seed:tool_call>\n<function=",
    "hunyuan": '<tool_calls>[{"name"',
    "ernie": "<tool_call>{{ c }}</tool_call> <response>",
    "minimax-m2": "<minimax:tool_call>",
    "minimax-m3": "]<]minimax[>[<tool_call>",
    "kimi-k2": "<|tool_calls_section_begin|>",
    "mistral": "[TOOL_CALLS]' + name + '[ARGS]'",
    "mistral-v3": "[TOOL_CALLS] [",
    "nemotron": "<TOOLCALL>[",
    "lfm2": "<|tool_list_start|>",
    "longcat": "<longcat_tool_call>",
    "gemma4": "<|tool_call>call:f{}<tool_call|>",
    "function-gemma": "<start_function_call>",
    "internlm": "<|action_start|><|plugin|>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_tells_the_form(name: str) -> None:
    assert choose(FakeText(), TEMPLATES[name], "auto", "auto").calls.name == name


def test_every_form_is_told_by_some_template() -> None:
    assert set(TEMPLATES) == set(BY_NAME)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("[TOOL_CALLS]", "[ARGS]"), "mistral"),
        (("[TOOL_CALLS]",), "mistral-v3"),
        (("<|python_tag|>",), "llama3"),
        (("<|tool_call_start|>", "<|tool_call_end|>"), "lfm2"),
        (("<|channel|>", "<|message|>", "<|constrain|>"), "harmony"),
        ((), "hermes"),
    ],
)
def test_a_template_that_says_nothing_leaves_it_to_the_vocabulary(
    words: tuple[str, ...], name: str
) -> None:
    assert choose(Words(*words), "{{ messages }}", "auto", "auto").calls.name == name


def parse(text: str, tools: Any) -> Any:
    raise ValueError(text)


def test_what_only_the_library_reads_is_left_to_it() -> None:
    parse.__module__ = "mlx_lm.tool_parsers.muse_spark"
    text = Words(markup=Markup(tool_start="<a>", tool_end="</a>", parse_call=parse))
    assert choose(text, TEMPLATES["hermes"], "auto", "auto").calls.name == "library"
    assert markup_for(text, "", "library", "auto").tool_start == "<a>"


def test_a_user_who_names_forms_is_heard() -> None:
    plugin = Tools(ToolsOptions(tool_format="glm", thinking_format="mistral"))
    markup = plugin.describe_markup(FakeText(), TEMPLATES["hermes"])
    assert markup.calls is not None
    assert (markup.calls.name, markup.thinking) == ("glm", "mistral")
    assert (markup.think_start, markup.think_end) == ("[THINK]", "[/THINK]")


@pytest.mark.parametrize("field", ["tool_format", "thinking_format"])
def test_a_name_that_does_not_exist_is_said_with_those_that_do(field: str) -> None:
    plugin = Tools(ToolsOptions(**{field: "nonsense"}))
    flag = f"--{field.replace('_', '-')}"
    with pytest.raises(SettingError, match=f"{flag} 'nonsense' does not exist; there are: auto"):
        plugin.describe_markup(FakeText(), "")


@pytest.mark.parametrize(
    ("template", "words", "name"),
    [
        ("{% if '</think>' in content %}", (), "think"),
        ("", ("<think>", "</think>"), "think"),
        ("", ("[THINK]", "[/THINK]"), "mistral"),
        ("<seed:think></seed:think>", (), "seed"),
        ("<|START_THINKING|><|END_THINKING|>", (), "cohere"),
        ("<|channel|>final<|message|>", (), "harmony"),
        ("<mm:think></mm:think>", (), "minimax-m3"),
        ("Here is my thought process:", (), "granite"),
        ("{{ messages }}", (), "none"),
    ],
)
def test_marks_of_thinking_are_found(template: str, words: tuple[str, ...], name: str) -> None:
    assert choose(Words(*words), template, "auto", "auto").thoughts.name == name


def test_marks_that_are_special_tokens_are_told() -> None:
    assert markup_for(Words("[THINK]", "[/THINK]"), "", "auto", "auto").special
    assert not markup_for(FakeText(), "<think></think>", "auto", "auto").special


@pytest.mark.parametrize(
    ("template", "switches"),
    [
        ("{% if enable_thinking is defined and not enable_thinking %}", ("enable_thinking",)),
        ("{%- if not thinking is defined %}{% set thinking = false %}{% endif %}", ("thinking",)),
        ("{{ reasoning_effort or 'medium' }}", ("reasoning_effort",)),
        ("{{ message.thinking }} {{ 'enable_thinking' }} enable_thinking", ()),
        ("{% if thinking_budget == 0 %}", ("thinking_budget",)),
    ],
)
def test_switches_are_variables_that_the_template_reads(
    template: str, switches: tuple[str, ...]
) -> None:
    assert switches_of(template) == switches
