"""Messages that a template refuses are merged as a person would, and only then."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import RequestError

from .conftest import byte_level, wrapped

FIRST_ONLY = """{% for m in messages %}\
{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}\
[{{ m.role }}]{{ m.content }}{% endfor %}"""

NO_SYSTEM = """{% for m in messages %}\
{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
[{{ m.role }}]{{ m.content }}{% endfor %}"""

ALTERNATING = """{% set rest = messages[1:] if messages[0].role == 'system' else messages %}\
{% for m in rest %}\
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate user/assistant') }}{% endif %}\
{% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"""

NEITHER = """{% for m in messages %}\
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('roles must alternate user/assistant') }}{% endif %}\
[{{ m.role }}]{{ m.content }}{% endfor %}"""

ITEMS = """{% for m in messages %}[{{ m.role }}]{{ m.content }}\
{% for call in m.tool_calls or [] %}{% for k, v in call.function.arguments | items %}\
<{{ k }}={{ v }}>{% endfor %}{% endfor %}{% endfor %}"""

LENIENT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(arguments: object) -> list[dict[str, Any]]:
    call = {"function": {"name": "f", "arguments": arguments}}
    return [say("user", "a"), say("assistant", "", tool_calls=[call])]


def rendered(template: str, messages: list[dict[str, Any]]) -> str:
    codec = Tokenizer(wrapped(byte_level(), template))
    return codec.decode(codec.render_chat(messages, add_generation_prompt=False))


S, U, A = say("system", "s"), say("user", "u"), say("assistant", "a")

MERGED: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a second system message": (
        FIRST_ONLY, [S, say("system", "t"), U], "[system]s\n\nt[user]u",
    ),
    "a system message that is not first": (
        FIRST_ONLY, [U, A, S, U], "[system]s[user]u[assistant]a[user]u",
    ),
    "a system message where there is none": (NO_SYSTEM, [S, U], "[user]s\n\nu"),
    "only a system message where there is none": (NO_SYSTEM, [S], "[user]s"),
    "two turns of the user": (
        ALTERNATING, [S, U, say("user", "v"), A], "[system]s[user]u\n\nv[assistant]a",
    ),
    "two turns of the assistant": (
        ALTERNATING, [U, A, say("assistant", "b"), U], "[user]u[assistant]a\n\nb[user]u",
    ),
    "a system message and two turns": (NEITHER, [S, U, U, A], "[user]s\n\nu\n\nu[assistant]a"),
    "arguments of broken JSON": (ITEMS, called('{"a'), '[user]a[assistant]<arguments={"a>'),
}  # fmt: skip


@pytest.mark.parametrize(("template", "messages", "text"), MERGED.values(), ids=MERGED)
def test_what_a_template_refuses_is_put_in_the_form_that_it_takes(
    template: str, messages: list[dict[str, Any]], text: str
) -> None:
    assert rendered(template, messages) == text


AS_THEY_ARE: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a second system message": (LENIENT, [S, U, S], "[system]s[user]u[system]s"),
    "two turns": (LENIENT, [U, U, A, A], "[user]u[user]u[assistant]a[assistant]a"),
    "turns that are right": (ALTERNATING, [S, U, A, U], "[system]s[user]u[assistant]a[user]u"),
    "two turns where only systems are minded": (FIRST_ONLY, [S, U, U], "[system]s[user]u[user]u"),
}


@pytest.mark.parametrize(("template", "messages", "text"), AS_THEY_ARE.values(), ids=AS_THEY_ARE)
def test_what_a_template_takes_is_left_alone(
    template: str, messages: list[dict[str, Any]], text: str
) -> None:
    assert rendered(template, messages) == text


ARGUMENTS: dict[str, tuple[object, str]] = {
    "nothing": (None, ""),
    "an empty text": ("", ""),
    "white space": (" \n", ""),
    "null": ("null", ""),
    "an object": ({"b": 1}, "<b=1>"),
    "an object in text": ('{"b": 1}', "<b=1>"),
    "a list": ("[1]", "<arguments=[1]>"),
    "broken JSON": ("{'b': 1}", "<arguments={'b': 1}>"),
    "a deep nest": ("[" * 100_000, f"<arguments={'[' * 100_000}>"),
}


@pytest.mark.parametrize(("arguments", "shown"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_no_arguments_of_a_call_end_a_conversation(arguments: object, shown: str) -> None:
    assert rendered(ITEMS, called(arguments)) == f"[user]a[assistant]{shown}"


def test_a_call_without_any_arguments_key_is_one_with_none() -> None:
    messages = [U, say("assistant", "", tool_calls=[{"function": {"name": "f"}}])]
    assert rendered(ITEMS, messages) == "[user]u[assistant]"


def test_turns_that_are_merged_keep_all_their_calls() -> None:
    first, second = (called({"n": at})[1] for at in (1, 2))
    template = ITEMS + "{% if messages | length > 2 %}{{ raise_exception('two only') }}{% endif %}"
    assert rendered(template, [U, first, second]) == "[user]u[assistant]<n=1><n=2>"


def test_a_template_that_refuses_every_form_says_why_it_refused_the_first() -> None:
    template = "{{ raise_exception('no ' ~ messages | length) }}"
    with pytest.raises(RequestError, match="no 2") as refused:
        rendered(template, [U, U])
    assert refused.value.code == "chat_template_error"


def test_what_is_merged_is_said_once() -> None:
    codec = Tokenizer(wrapped(byte_level(), FIRST_ONLY))
    with capture_logs() as logs:
        for _ in range(2):
            codec.render_chat([S, S, U])
    assert [log["repairs"] for log in logs] == [("system_first",)]
