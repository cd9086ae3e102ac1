"""Read tool calls and thinking out of chat replies, in the form of the model that is served."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define

from mlxserve_hookspecs import OutputParser, TextCodec, hookimpl
from mlxserve_plugins.tools.parser import ReplyParser
from mlxserve_plugins.tools.states import states_of


@define
class Tools:
    """Answers for replies that may have markers: the model has some, or the request has tools."""

    @hookimpl
    def make_output_parser(
        self, text: TextCodec, tools: Sequence[Mapping[str, Any]] | None, reasoning: bool
    ) -> OutputParser | None:
        """Answer unless all text is content."""
        states = states_of(text.markup, tools=bool(tools))
        return ReplyParser(states, tools, reasoning=reasoning) if states.edges else None
