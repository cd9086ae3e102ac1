"""Which tools may be called, and which must be: ``tool_choice``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from mlxserve_plugins.responses.toolbox import Toolbox
from mlxserve_plugins.surface.checks import refusal

Json: TypeAlias = dict[str, Any]


def choose(choice: str | Json | None, box: Toolbox) -> Json | None:
    """Leave in ``box`` what the model is to know of; return what is forced, if anything is.

    Returns:
        The demand for a call, as the plugin that answers ``make_constraint`` reads it.

    Raises:
        RequestError: The choice is malformed, or names what is not there.
    """
    if choice is None or choice == "auto":
        return None
    if choice == "none":
        box.keep(())
        return None
    if choice == "required":
        return _forced("required", box)
    if isinstance(choice, str):
        message = "`tool_choice` must be 'none', 'auto', 'required' or an object that names tools"
        raise refusal("tool_choice", message)
    if choice.get("type") == "allowed_tools":
        return _allowed(choice, box)
    name = _named(choice, box, "tool_choice")
    return _forced({"type": "function", "function": {"name": name}}, box)


def _allowed(choice: Json, box: Toolbox) -> Json | None:
    allowed, mode = choice.get("tools"), choice.get("mode")
    if not isinstance(allowed, list) or not all(isinstance(one, dict) for one in allowed):
        raise refusal("tool_choice.tools", "`tool_choice.tools` must be an array of tools")
    if mode not in ("auto", "required"):
        raise refusal("tool_choice.mode", "`tool_choice.mode` must be 'auto' or 'required'")
    left_out = list(box.left_out)  # a list: what a client names need not be hashable
    wanted = [one for one in allowed if one.get("type") not in left_out]
    where = "tool_choice.tools"
    box.keep([_named(one, box, f"{where}[{at}]") for at, one in enumerate(wanted)])
    return _forced("required", box) if mode == "required" else None


def _named(tool: Mapping[str, Any], box: Toolbox, where: str) -> str:
    kind, name, namespace = tool.get("type"), tool.get("name"), tool.get("namespace")
    if kind not in ("function", "custom"):
        message = f"`{where}.type` is {kind!r}: only functions and custom tools can be chosen"
        raise refusal(f"{where}.type", message, "unsupported_parameter")
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        raise refusal(f"{where}.name", f"`{where}.name` must be a string")
    found = box.named(kind, name, namespace)
    if found is None:
        raise refusal(where, f"`{where}` names {name!r}, which is not among `tools`")
    return found


def _forced(choice: str | Json, box: Toolbox) -> Json:
    tools = box.for_template()
    if tools is None:
        raise refusal("tool_choice", "`tool_choice` forces a call, and there are no `tools`")
    return {"type": "tool_choice", "tool_choice": choice, "tools": tools}
