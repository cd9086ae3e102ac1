"""Tools and the choice among them, as chat templates and the engine know them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlxserve_plugins.anthropic.bodies import AnyChoice, NamedChoice, NoChoice, PromptBody, Tool
from mlxserve_plugins.structured.fields import chat_constraint
from mlxserve_plugins.surface.checks import refusal
from mlxserve_plugins.tools.thinking import ThinkingOrders


def functions_of(body: PromptBody) -> list[dict[str, Any]] | None:
    """Return the tools that the model is told of; ``None`` where there are none.

    Raises:
        RequestError: A tool is none that a client runs, or has no name (status 400).
    """
    found = [_function(tool, f"tools[{at}]") for at, tool in enumerate(body.tools or [])]
    return None if isinstance(body.tool_choice, NoChoice) else found or None


def constraint_of(
    body: PromptBody, functions: Sequence[Mapping[str, Any]] | None, orders: ThinkingOrders
) -> Mapping[str, Any] | None:
    """Return what is demanded of the reply: a call, a schema, less thinking.

    Raises:
        RequestError: Both are, or a call of a tool that is not there (status 400).
    """
    return chat_constraint(
        {"response_format": _form(body)},
        tools=functions,
        choice=_forced(body, functions),
        parallel=False if is_one_call(body) else None,
        budget=orders.budget,
    )


def is_one_call(body: PromptBody) -> bool:
    """Return whether the client takes one call at most."""
    choice = body.tool_choice
    return bool(getattr(choice, "disable_parallel_tool_use", False))


def _forced(
    body: PromptBody, functions: Sequence[Mapping[str, Any]] | None
) -> str | dict[str, Any] | None:
    choice = body.tool_choice
    if not isinstance(choice, AnyChoice | NamedChoice):
        return None
    if not functions:
        raise refusal("tool_choice", "`tool_choice` forces a call, and there are no `tools`")
    if isinstance(choice, AnyChoice):
        return "required"
    _check_name(choice.name, functions)
    return {"type": "function", "function": {"name": choice.name}}


def _form(body: PromptBody) -> dict[str, Any] | None:
    if body.output_config is None or body.output_config.format is None:
        return None
    schema = body.output_config.format.schema
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


def _check_name(name: str, functions: Sequence[Mapping[str, Any]]) -> None:
    if name not in [one["function"]["name"] for one in functions]:
        message = f"`tool_choice` names {name!r}, which is not among `tools`"
        raise refusal("tool_choice.name", message)


def _function(tool: Tool, where: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        message = f"`{where}.type` is {tool.type!r}: this server knows only tools that clients run"
        raise refusal(f"{where}.type", f"{message}, with a name and an `input_schema`")
    if not tool.name:
        raise refusal(f"{where}.name", f"`{where}.name` is missing or empty")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.input_schema is not None:
        function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
