"""Where stop strings are looked for, and what templates are told."""

import pytest

from mlxserve_hookspecs import Markup, StopConditions
from mlxserve_plugins.surface.chats import stops_in_answers, template_options
from mlxserve_plugins.tools.thinking import orders_of

THINK, CALL = ("<think>", "</think>"), ("<call>", "</call>")
MARKUP = Markup(think_start=THINK[0], think_end=THINK[1], tool_start=CALL[0], tool_end=CALL[1])
STOP = StopConditions(max_tokens=5, strings=("end",))


@pytest.mark.parametrize(
    ("thinks", "tools", "skip"),
    [(False, False, (THINK,)), (True, False, (THINK,)), (True, True, (THINK, CALL))],
    ids=["thinking may come", "thinking is open", "calls may come"],
)
def test_stop_strings_are_not_looked_for_in_thinking_and_calls(
    thinks: bool, tools: bool, skip: tuple[tuple[str, str], ...]
) -> None:
    found = stops_in_answers(STOP, MARKUP, thinks=thinks, tools=tools, skips_special=False)
    assert (found.strings, found.skip, found.within_skip) == (("end",), skip, thinks)


def test_without_stop_strings_there_is_nothing_to_skip() -> None:
    stop = StopConditions(max_tokens=5)
    assert stops_in_answers(stop, MARKUP, thinks=True, tools=True, skips_special=False) == stop


def test_markers_that_the_text_lacks_are_not_waited_for() -> None:
    markup = Markup(think_start=THINK[0], think_end=THINK[1], special=True)
    assert stops_in_answers(STOP, markup, thinks=True, tools=False, skips_special=True) == STOP


def test_a_model_without_thinking_skips_its_calls_only() -> None:
    markup = Markup(tool_start=CALL[0], tool_end=CALL[1])
    found = stops_in_answers(STOP, markup, thinks=False, tools=True, skips_special=True)
    assert (found.skip, found.within_skip) == ((CALL,), False)


def test_the_clients_own_words_go_before_the_models_and_those_before_anybodys() -> None:
    markup = Markup(think_start="<t>", think_end="</t>", switches=("reasoning_effort", "thinking"))
    orders = orders_of(markup, effort="max")
    said = {"reasoning_effort": "max", "enable_thinking": True}
    assert template_options(said, orders, {"thinking": "mine"}) == {
        "reasoning_effort": "high",
        "enable_thinking": True,
        "thinking": "mine",
    }
