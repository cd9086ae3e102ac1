"""Tools that a model never sees are not passed over in silence."""

from typing import Any

import pytest
import structlog

from mlxserve_hookspecs import Markup
from mlxserve_hookspecs.serving import REPLY_HEADERS
from mlxserve_plugins.tools.ignored import HEADER, NOTE, IgnoredTools

TOOLS = [{"type": "function", "function": {"name": "f"}}]
DEAF = Markup(ignores_tools=True)


def test_each_client_is_told_and_the_log_once() -> None:
    told = IgnoredTools()
    states: list[dict[str, Any]] = [{REPLY_HEADERS: {"X": "y"}}, {REPLY_HEADERS: {}}]
    with structlog.testing.capture_logs() as logs:
        for state in states:
            told.tell(TOOLS, DEAF, state)
    assert states == [{REPLY_HEADERS: {"X": "y", HEADER: NOTE}}, {REPLY_HEADERS: {HEADER: NOTE}}]
    assert [entry["event"] for entry in logs] == [NOTE]


@pytest.mark.parametrize(
    ("tools", "markup"),
    [(TOOLS, Markup()), (None, DEAF), ([], DEAF)],
    ids=["a template that lists tools", "no tools", "an empty list"],
)
def test_nothing_is_said_where_nothing_is_ignored(tools: Any, markup: Markup) -> None:
    state: dict[str, Any] = {}
    with structlog.testing.capture_logs() as logs:
        IgnoredTools().tell(tools, markup, state)
    assert (state, logs) == ({}, [])
