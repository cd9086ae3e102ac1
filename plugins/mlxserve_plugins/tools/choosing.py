"""Choose a model's forms from its chat template and vocabulary, or by name."""

from collections.abc import Sequence
from typing import Any, Final

from attrs import evolve, frozen

from mlxserve_hookspecs import Markup, SettingError, TextCodec
from mlxserve_plugins.tools.families import BY_NAME, FORMS, HERMES
from mlxserve_plugins.tools.forms import Form, objects, whole
from mlxserve_plugins.tools.thoughts import (
    NONE,
    THOUGHTS,
    THOUGHTS_BY_NAME,
    ThoughtForm,
    switches_of,
)

AUTO: Final = "auto"
LIBRARY: Final = "library"
ONLY_IN_LIBRARY: Final = ("kimi_k3", "laguna", "minicpm5", "muse_spark")
"""Parsers of mlx-lm for which there is no form here."""


@frozen
class Chosen:
    """A model's forms.

    Attributes:
        calls: Of its calls.
        thoughts: Of its thinking.
        why: What ``calls`` was chosen by.
    """

    calls: Form
    thoughts: ThoughtForm
    why: str


def markup_for(text: TextCodec, template: str, tool_format: str, thinking_format: str) -> Markup:
    """Return the markup of a model.

    Args:
        text: Its tokenizer, whose ``markup`` is what mlx-lm found.
        template: Its chat template.
        tool_format: A form's name, ``auto`` or ``library``.
        thinking_format: Likewise; ``none`` for none.

    Raises:
        SettingError: There is no form of that name.
    """
    found = text.markup
    chosen = choose(text, template, tool_format, thinking_format)
    calls, thoughts = chosen.calls, chosen.thoughts
    dropped = tuple(dict.fromkeys((*found.dropped, *calls.dropped)))
    made = evolve(
        found,
        think_start=thoughts.start,
        think_end=thoughts.end,
        think_close=thoughts.close,
        answer_start=thoughts.answer,
        tool_start=calls.start or calls.trigger,
        tool_end=calls.end,
        dropped=dropped,
        thinking=thoughts.name,
        switches=switches_of(template),
        calls=calls,
    )
    marks = (*calls.scripts, calls.end, *dropped, thoughts.start, thoughts.end)
    return evolve(made, special=found.special or _special(text, marks))


def choose(text: TextCodec, template: str, tool_format: str, thinking_format: str) -> Chosen:
    """Return the forms of a model; arguments and errors as ``markup_for``'s."""
    calls, why = _calls(text, template, tool_format)
    return Chosen(calls, _thoughts(text, template, thinking_format), why)


def library(markup: Markup) -> Form:
    """Return the form of the parser that mlx-lm found; Hermes' if it found none."""
    start, end = markup.tool_start, markup.tool_end
    if not start:
        return HERMES
    parse = markup.parse_call
    script = objects(end) if parse is None else whole(parse, end)
    return Form(name=LIBRARY, scripts={start: script}, end=end)


def form_of(markup: Markup) -> Any:
    """Return the form of calls of a markup, whoever described it."""
    return markup.calls or library(markup)


def _calls(text: TextCodec, template: str, name: str) -> tuple[Form, str]:
    markup = text.markup
    if name == LIBRARY:
        return library(markup), "--tool-format"
    if name != AUTO:
        return _named(name, BY_NAME, "--tool-format", (AUTO, LIBRARY)), "--tool-format"
    module = getattr(markup.parse_call, "__module__", "") or ""
    if module.rpartition(".")[2] in ONLY_IN_LIBRARY:
        return library(markup), "mlx-lm"
    return _seen(text, template)


def _seen(text: TextCodec, template: str) -> tuple[Form, str]:
    for form in FORMS:
        if any(all(word in template for word in group) for group in form.template):
            return form, "the chat template"
    if text.markup.parse_call is not None:
        return library(text.markup), "mlx-lm"
    for form in FORMS:
        if form.vocabulary and all(_knows(text, word) for word in form.vocabulary):
            return form, "the vocabulary"
    return HERMES, "nothing better: the model names no form"


def _thoughts(text: TextCodec, template: str, name: str) -> ThoughtForm:
    if name != AUTO:
        named: ThoughtForm = _named(name, THOUGHTS_BY_NAME, "--thinking-format", (AUTO,))
        return named
    for form in THOUGHTS:
        if form.name == "granite":
            found = form.start in template
        elif form.name == "harmony":
            found = "<|channel|>" in template and "<|message|>" in template
        else:
            # A template that only closes thinking strips it from the history.
            found = form.end in template or (_knows(text, form.start) and _knows(text, form.end))
        if found:
            return form
    markup = text.markup
    if markup.think_start:
        return ThoughtForm(name=LIBRARY, start=markup.think_start, end=markup.think_end)
    return NONE


def _named(name: str, known: Any, flag: str, more: Sequence[str]) -> Any:
    if name not in known:
        names = ", ".join((*more, *sorted(known)))
        raise SettingError(f"{flag} {name!r} does not exist; there are: {names}")
    return known[name]


def _knows(text: TextCodec, word: str) -> bool:
    """Return whether a word is a token of its own."""
    tokens = text.encode(word, add_special_tokens=False)
    spelt = [text.token_bytes(token) for token in tokens]
    return word.encode() in spelt


def _special(text: TextCodec, marks: Sequence[str]) -> bool:
    special = text.special_token_ids
    return any(
        token in special
        for mark in marks
        if mark
        for token in text.encode(mark, add_special_tokens=False)
    )
