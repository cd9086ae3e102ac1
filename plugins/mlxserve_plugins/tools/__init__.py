"""Read tool calls and thinking out of chat replies, in the form of the model that is served."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    Markup,
    ModelCard,
    OutputDelta,
    OutputParser,
    StopCondition,
    TextCodec,
    hookimpl,
    option,
)


@frozen
class ToolsOptions:
    """Read tool calls and thinking."""

    tool_format: str = option(
        "auto",
        "how the model writes its tool calls: a family's name (hermes, llama3, harmony, ...), "
        "`library` for mlx-lm's parser, or `auto` by template and vocabulary",
        flag="--tool-format",
    )
    thinking_format: str = option(
        "auto",
        "how the model marks its thinking: think, harmony, mistral, seed, ..., or none",
        flag="--thinking-format",
    )


@define(eq=False)
class Tools:
    """Answers for replies that may have markers: the model has some, or the request has tools."""

    options: ToolsOptions = field(factory=ToolsOptions)
    _broken: int = field(default=0, init=False)

    @hookimpl
    def describe_markup(self, text: TextCodec, template: str) -> Markup:
        """Answer with the forms that the user named, or that the model seems to have."""
        from mlxserve_plugins.tools.choosing import markup_for  # noqa: PLC0415 - many forms

        return markup_for(text, template, self.options.tool_format, self.options.thinking_format)

    @hookimpl
    def started(self, card: ModelCard, text: TextCodec) -> None:
        """Say which forms were chosen."""
        import structlog  # noqa: PLC0415 - not before it is needed

        markup = text.markup
        structlog.get_logger("mlxserve.tools").info(
            "reply formats",
            model=card.id,
            tool_format=markup.calls.name if markup.calls else "library",
            thinking_format=markup.thinking or "none",
            switches=", ".join(markup.switches) or "none",
        )

    @hookimpl
    def make_constraint(
        self, request: GenerationRequest, text: TextCodec, vocab_size: int
    ) -> Constraint | None:
        """Answer demands for shorter thinking and nothing else."""
        if (request.constraint or {}).get("type") != "thinking":
            return None
        from mlxserve_plugins.tools.budget import Unlimited, limited  # noqa: PLC0415 - mlx

        made: Constraint = limited(None, request, text, vocab_size) or Unlimited()
        return made

    @hookimpl
    def make_stop_condition(
        self, request: GenerationRequest, text: TextCodec
    ) -> StopCondition | None:
        """Answer where the client takes one call at most."""
        if not request.constraint:
            return None
        from mlxserve_plugins.tools.one_call import is_one_call, one_call  # noqa: PLC0415 - forms

        return one_call(request, text) if is_one_call(request) else None

    @hookimpl
    def make_output_parser(
        self,
        text: TextCodec,
        tools: Sequence[Mapping[str, Any]] | None,
        reasoning: bool,
        forced: bool = False,
    ) -> OutputParser | None:
        """Answer unless all text is content."""
        from mlxserve_plugins.tools.choosing import form_of  # noqa: PLC0415 - many forms

        markup = text.markup
        if not (tools or markup.think_start or markup.dropped or markup.transitions):
            return None
        form = form_of(markup)
        made = form.parser(markup, tools, reasoning=reasoning, forced=forced)
        return Counted(made, self._count, form.name)

    @hookimpl
    def running_totals(self) -> Mapping[str, float]:
        """Answer with the calls that could not be read."""
        return {"broken_tool_calls": float(self._broken)}

    def _count(self, broken: int, form: str) -> None:
        import structlog  # noqa: PLC0415 - not before it is needed

        self._broken += broken
        log = structlog.get_logger("mlxserve.tools")
        log.warning("a tool call could not be read", tool_format=form, calls=broken)


@frozen
class Counted:
    """A parser whose broken calls are counted.

    Attributes:
        parser: Reads one choice.
        count: Told how many calls broke, and of which form.
        form: The form.
    """

    parser: OutputParser
    count: Callable[[int, str], None]
    form: str

    def feed(self, text: str) -> OutputDelta:
        """Take the next piece of text and return what became certain."""
        return self._counted(self.parser.feed(text))

    def finish(self) -> OutputDelta:
        """Return what was held back; the reply has ended."""
        return self._counted(self.parser.finish())

    def _counted(self, delta: OutputDelta) -> OutputDelta:
        if delta.broken:
            self.count(delta.broken, self.form)
        return delta
