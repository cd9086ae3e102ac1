"""Markers of thinking and tool calls reach plugins as mlx-lm found them."""

from collections.abc import Sequence

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import Markup

from .conftest import byte_level, wrapped


def thinking(added: Sequence[str] = (), special: Sequence[str] = ()) -> Tokenizer:
    """Return a tokenizer with markers among its added tokens, as Qwen's has them."""
    wrapper = wrapped(byte_level())
    wrapper.add_tokens(list(added))
    wrapper.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
    return Tokenizer(
        TokenizerWrapper(
            wrapper._tokenizer,
            tool_call_start=json_tools.tool_call_start,
            tool_call_end=json_tools.tool_call_end,
            tool_parser=json_tools.parse_tool_call,
        )
    )


THINKS = ("<think>", "</think>")


def test_a_model_without_markers_has_none(codec: Tokenizer) -> None:
    assert codec.markup == Markup()
    assert not codec.opens_thinking(codec.encode("<think>"))


def test_a_model_with_markers_names_them_and_reads_its_calls() -> None:
    markup = thinking(THINKS).markup
    assert (markup.think_start, markup.think_end) == THINKS
    assert (markup.tool_start, markup.tool_end) == ("<tool_call>", "</tool_call>")
    assert markup.parse_call is not None
    assert markup.parse_call('{"name": "f"}', None) == {"name": "f"}
    assert not markup.special


def test_markers_that_are_special_tokens_are_said_to_be() -> None:
    codec = thinking(special=THINKS)
    assert codec.markup.special
    assert set(codec.encode("<think>")[-1:]) <= codec.special_token_ids


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>assistant: <think>\n", True),
        ("<|im_start|>assistant: <think>", True),
        ("<|im_start|>assistant: <think>\n\n</think>\n\n", False),
        ("what is <think></s><|im_start|>assistant: ", False),
        ("<think> aside", False),
        ("", False),
    ],
)
def test_only_a_template_that_ends_with_it_opens_the_thinking(prompt: str, opens: bool) -> None:
    codec = thinking(THINKS)
    assert codec.opens_thinking(codec.encode("the cat " * 30 + prompt)) == opens


def test_what_a_plugin_says_of_markers_is_heard() -> None:
    codec = thinking(THINKS)
    codec.markup = Markup(think_start="[THINK]", think_end="[/THINK]")
    assert codec.opens_thinking(codec.encode("the cat [THINK]\n"))
    assert not codec.opens_thinking(codec.encode("the cat <think>\n"))


@pytest.mark.parametrize(
    ("template", "source"),
    [
        (None, ""),
        ("{{ messages }}", "{{ messages }}"),
        ({"default": "a", "tool_use": "b"}, "b"),
        ({"default": "a"}, "a"),
    ],
    ids=["none", "one", "several", "a default"],
)
def test_the_templates_source_is_known(template: object, source: str) -> None:
    codec = thinking()
    codec._wrapper._tokenizer.chat_template = template
    assert codec.chat_template == source
