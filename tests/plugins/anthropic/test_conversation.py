"""What a template is told of a conversation."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from mlxserve_hookspecs import Markup, RequestError
from mlxserve_plugins.anthropic.bodies import PromptBody
from mlxserve_plugins.anthropic.conversation import conversation_of, folded
from mlxserve_plugins.anthropic.jobs import TEMPLATE_REFUSED, render
from mlxserve_plugins.anthropic.omissions import without
from mlxserve_plugins.anthropic.thinking import orders_in, signature_of, wishes_in
from mlxserve_plugins.surface.chats import template_options

from ..openai.fake_engine import FakeText

BILLING = "x-anthropic-billing-header:"
BOTH = {"enable_thinking": True, "thinking": True}
NEITHER = {"enable_thinking": False, "thinking": False}


def body_of(*turns: tuple[str, Any], **more: Any) -> PromptBody:
    messages = [{"role": role, "content": content} for role, content in turns]
    return msgspec.convert({"model": "m", "messages": messages, **more}, PromptBody)


def plain(*turns: tuple[str, Any], **more: Any) -> list[dict[str, Any]]:
    return conversation_of(body_of(*turns, **more), (BILLING,)).messages


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}
CALL = {
    "type": "function",
    "id": "t1",
    "function": {"name": "weather", "arguments": {"city": "Paris"}},
}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **more}


def test_text_is_the_same_as_a_string_and_as_a_block() -> None:
    expected = [{"role": "system", "content": "Be"}, {"role": "user", "content": "Hi"}]
    assert plain(("user", "Hi"), system="Be") == expected
    assert plain(("user", [text("Hi")]), system=[text("Be")]) == expected


def test_turns_of_one_role_are_one() -> None:
    found = plain(("user", "a"), ("user", [text("b")]), ("assistant", "c"), ("assistant", "d"),
                  ("user", "e"))  # fmt: skip
    assert [(m["role"], m["content"]) for m in found] == [
        ("user", "a\nb"),
        ("assistant", "cd"),
        ("user", "e"),
    ]


def test_a_tool_loop_is_calls_and_tool_messages() -> None:
    found = plain(
        ("user", "Weather?"),
        ("assistant", [text("Look."), USE, {**USE, "id": "t2"}]),
        ("user", [result("sun"), {**result([text("a"), text("b")]), "tool_use_id": "t2"}]),
        ("assistant", "Fine."),
        ("user", "Thanks"),
    )
    assert found[1:4] == [
        {"role": "assistant", "content": "Look.", "tool_calls": [CALL, {**CALL, "id": "t2"}]},
        {"role": "tool", "content": "sun", "tool_call_id": "t1", "name": "weather"},
        {"role": "tool", "content": "a\nb", "tool_call_id": "t2", "name": "weather"},
    ]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (result("gone", is_error=True), "Error: gone"),
        (result(None), ""),
        (result([]), ""),
        (result([{"type": "tool_reference", "tool_name": "Read"}]), "Read"),
        (
            result(
                [{"type": "search_result", "source": "s", "title": "t", "content": [text("c")]}]
            ),
            "t\ns\nc",
        ),
        (
            result(
                [
                    {
                        "type": "document",
                        "title": "t",
                        "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                    }
                ]
            ),
            "t\nd",
        ),
        (
            result([{"type": "document", "source": {"type": "content", "content": [text("c")]}}]),
            "c",
        ),
    ],
    ids=["failed", "nothing", "no blocks", "a tool's name", "a find", "a document", "its blocks"],
)
def test_what_a_tool_answered_is_text(block: dict[str, Any], said: str) -> None:
    (message,) = plain(("user", [block]))
    assert message["content"] == said


def test_text_beside_a_result_is_the_users() -> None:
    found = plain(("assistant", [USE]), ("user", [result("sun"), text("And now?")]))
    assert [m["role"] for m in found] == ["assistant", "tool", "user"]
    assert folded(found)[1:] == [{**found[1], "content": "sun\nAnd now?"}]
    assert found[1]["content"] == "sun"


def test_a_template_that_wants_no_user_after_a_tool_gets_none() -> None:
    class Strict(FakeText):
        def render_chat(self, messages: Any, **options: Any) -> list[int]:
            roles = [message["role"] for message in messages]
            if ("tool", "user") in pairwise(roles):
                raise RequestError(status=400, message="no", code=TEMPLATE_REFUSED)
            return super().render_chat(messages, **options)

    body = body_of(("assistant", [USE]), ("user", [result("sun"), text("And now?")]))
    prompt = render(Strict(), conversation_of(body, ()), None, {})
    assert bytes(prompt).decode().endswith("tool:sun\nAnd now?\nassistant:")


def test_a_templates_other_refusals_stay() -> None:
    with pytest.raises(RequestError, match="the template refuses"):
        render(FakeText(), conversation_of(body_of(("user", "raise")), ()), None, {})


def test_thinking_of_the_history_is_the_templates_to_use() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    sealed = {**thought, "thinking": "", "signature": signature_of("Hé", omitted=True)}
    others = {**thought, "thinking": "", "signature": "EqQBCg"}
    for block, said in ((thought, "Hm."), (sealed, "Hé"), (hidden, None), (others, None)):
        found = plain(("assistant", [block, text("Yes")]), ("user", "?"))
        assert found[0]["content"] == "Yes"
        assert found[0].get("reasoning_content") == said


def test_instructions_at_the_start_are_the_systems_and_later_ones_the_users() -> None:
    found = plain(("system", "a"), ("user", "b"), ("system", "c"), ("assistant", "d"),
                  ("system", "e"), ("user", "f"), system="s")  # fmt: skip
    assert [(m["role"], m["content"]) for m in found] == [
        ("system", "s\n\na"),
        ("user", "b\n<system-reminder>\nc\n</system-reminder>"),
        ("assistant", "d"),
        ("user", "<system-reminder>\ne\n</system-reminder>\nf"),
    ]


def test_instructions_after_a_tools_answer_are_a_part_of_it() -> None:
    found = plain(("assistant", [USE]), ("user", [result("sun")]), ("system", "s"))
    assert [m["role"] for m in found] == ["assistant", "tool"]
    assert found[1]["content"] == "sun\n<system-reminder>\ns\n</system-reminder>"


def test_a_last_turn_of_the_assistant_is_what_the_reply_begins_with() -> None:
    conversation = conversation_of(body_of(("user", "Hi"), ("assistant", "Well, ")), ())
    assert bytes(render(FakeText(), conversation, None, {})) == b"user:Hi\nassistant:Well, "


def test_two_sessions_with_other_billing_lines_have_one_prompt() -> None:
    first, second = (
        plain(("user", "Hi"), system=[text(f"{BILLING} cc_version=2.{n}; cch={n};"), text("Be.")])
        for n in (1, 2)
    )
    assert first == second
    assert first[0]["content"] == "Be."


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        (f"{BILLING} 1", ""),
        (f"\n{BILLING} 1\nBe kind.", "Be kind."),
        (f"Never say {BILLING} 1", f"Never say {BILLING} 1"),
        (f"Be.\n{BILLING} 1", f"Be.\n{BILLING} 1"),
    ],
    ids=["alone", "a first line", "in a sentence", "a later line"],
)
def test_only_a_first_line_is_left_out(system: str, kept: str) -> None:
    assert without(system, (BILLING,)) == kept
    assert without(system, ()) == system


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"thinking": {"type": "disabled"}}, NEITHER),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, BOTH),
        ({"thinking": {"type": "adaptive"}}, BOTH),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "adaptive"}, "chat_template_kwargs": {"thinking": False}},
            {"enable_thinking": True, "thinking": False},
        ),
    ],
    ids=["nothing", "off", "on", "adaptive", "effort", "more effort", "the client's own words"],
)
def test_a_template_is_told_of_thinking(fields: dict[str, Any], options: dict[str, Any]) -> None:
    body = body_of(("user", "Hi"), **fields)
    orders = orders_in(body, Markup())
    found = template_options(wishes_in(body), orders, body.chat_template_kwargs)
    assert found == options


@pytest.mark.parametrize(
    ("fields", "options", "budget"),
    [
        ({}, {}, None),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, 0),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"enable_thinking": True},
            2000,
        ),
        ({"output_config": {"effort": "low"}}, {"enable_thinking": True}, 1024),
    ],
    ids=["nothing", "off", "a budget", "effort"],
)
def test_a_known_template_is_told_in_its_own_words_and_the_engine_of_the_budget(
    fields: dict[str, Any], options: dict[str, Any], budget: int | None
) -> None:
    markup = Markup(
        think_start="<think>",
        think_end="</think>",
        thinking="think",
        switches=("enable_thinking",),
    )
    orders = orders_in(body_of(("user", "Hi"), **fields), markup)
    assert (orders.template, orders.budget) == (options, budget)
