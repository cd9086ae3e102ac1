"""Tools: as clients name them, as chat templates know them, and back again.

Templates know functions only. A custom tool, which takes plain text, becomes a function with one
string; a function within a namespace gets the namespace before its name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import define, field, frozen

from mlxserve_plugins.surface.checks import refusal

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["function", "custom"]

BETWEEN: Final = "__"
INPUT: Final = "input"


@frozen
class ToolName:
    """A tool as its client knows it."""

    kind: Kind
    name: str
    namespace: str | None = None

    @property
    def flat(self) -> str:
        """Its name for the model."""
        return flat(self.name, self.namespace)


@define(eq=False)
class Toolbox:
    """The tools of one request.

    Attributes:
        functions: What a chat template is told, by the model's name for it.
        echoed: The tools as they came, without those that were left out.
        ignored: Types of hosted tools to leave out; others are refused.
        left_out: Those that were.
    """

    ignored: frozenset[str] = frozenset()
    functions: dict[str, Json] = field(factory=dict)
    echoed: list[Json] = field(factory=list)
    left_out: set[str] = field(factory=set)
    _names: dict[str, ToolName] = field(factory=dict)

    def add(self, tools: Sequence[Json], where: str = "tools") -> None:
        """Add tools as a client sends them.

        Raises:
            RequestError: One is malformed, named twice, or of a kind that is not here.
        """
        for at, tool in enumerate(tools):
            if self._add(tool, f"{where}[{at}]", None):
                self.echoed.append(tool)

    def name_of(self, called: str) -> ToolName:
        """Return what the client calls what the model called so; a stranger is a function."""
        return self._names.get(called) or ToolName("function", called)

    def named(self, kind: str, name: str, namespace: str | None) -> str | None:
        """Return the model's name of a tool; ``None`` if there is no such."""
        found = self._names.get(flat(name, namespace))
        return found.flat if found is not None and found.kind == kind else None

    def for_template(self) -> list[Json] | None:
        """Return the functions; ``None`` where there are none."""
        return list(self.functions.values()) or None

    def keep(self, names: Iterable[str]) -> None:
        """Forget every function but these."""
        kept = set(names)
        self.functions = {name: tool for name, tool in self.functions.items() if name in kept}

    def _add(self, tool: Json, where: str, namespace: str | None) -> bool:
        kind = tool.get("type")
        if kind in ("function", "custom"):
            self._add_function(tool, kind, where, namespace)
        elif kind == "namespace" and namespace is None:
            self._add_namespace(tool, where)
        elif isinstance(kind, str) and kind in self.ignored:
            self.left_out.add(kind)
            return False
        else:
            message = f"`{where}.type` is {kind!r}: this server has no such tool of its own"
            raise refusal(f"{where}.type", message, "unsupported_parameter")
        return True

    def _add_namespace(self, tool: Json, where: str) -> None:
        inner, name = tool.get("tools"), _name(tool, where)
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            raise refusal(f"{where}.tools", f"`{where}.tools` must be an array of tools")
        for at, one in enumerate(inner):
            self._add(one, f"{where}.tools[{at}]", name)

    def _add_function(self, tool: Json, kind: Kind, where: str, namespace: str | None) -> None:
        name = ToolName(kind, _name(tool, where), namespace)
        form = _parameters(tool, where) if kind == "function" else _custom(tool, where)
        function = {"type": "function", "function": {"name": name.flat, **form}}
        known = self._names.setdefault(name.flat, name)
        if known != name or self.functions.setdefault(name.flat, function) != function:
            message = f"`{where}.name` is {name.name!r}, as is another tool's"
            raise refusal(f"{where}.name", message)


def flat(name: str, namespace: str | None) -> str:
    """Return a tool's name for the model."""
    return f"{namespace}{BETWEEN}{name}" if namespace else name


def custom_input(arguments: str) -> str:
    """Return a custom tool's plain input from the arguments that the model wrote."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    text = found.get(INPUT) if isinstance(found, Mapping) else None
    return text if isinstance(text, str) else arguments


def custom_arguments(text: str) -> str:
    """Return a custom tool's input as the function's arguments."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def _name(tool: Json, where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise refusal(f"{where}.name", f"`{where}.name` must be a string, and not empty")
    return name


def _parameters(tool: Json, where: str) -> Json:
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise refusal(f"{where}.parameters", f"`{where}.parameters` must be an object")
    form = {"description": _description(tool, where), "parameters": parameters}
    return {key: value for key, value in form.items() if value is not None}


def _custom(tool: Json, where: str) -> Json:
    described = _description(tool, where) or ""
    rule = _rule(tool.get("format"), where)
    text: Json = {"type": "string"}
    if rule:
        text["description"] = rule
    schema = {
        "type": "object",
        "properties": {INPUT: text},
        "required": [INPUT],
        "additionalProperties": False,
    }
    return {"description": described, "parameters": schema}


def _rule(form: Any, where: str) -> str:
    """Return a custom tool's grammar in words: it is shown to the model and not enforced."""
    if form is None or (isinstance(form, Mapping) and form.get("type") == "text"):
        return ""
    if not isinstance(form, Mapping) or form.get("type") != "grammar":
        raise refusal(f"{where}.format", f"`{where}.format` must be of type 'text' or 'grammar'")
    syntax, definition = form.get("syntax"), form.get("definition")
    if not isinstance(syntax, str) or not isinstance(definition, str):
        message = f"`{where}.format` must have a `syntax` and a `definition`"
        raise refusal(f"{where}.format", message)
    return f"Text that follows this grammar ({syntax}):\n{definition}"


def _description(tool: Json, where: str) -> str | None:
    described = tool.get("description")
    if described is not None and not isinstance(described, str):
        raise refusal(f"{where}.description", f"`{where}.description` must be a string")
    return described
