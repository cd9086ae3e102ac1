"""Show each call of a hook: whose, how long it took, what came of it."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final

from mlxserve_hookspecs import PROJECT

VARIABLE: Final = "MLXSERVE_TRACE_HOOKS"
LONGEST: Final = 100
"""Characters of an answer that are shown."""

Sink = Callable[[str], object]


def traced(plugins: Mapping[str, object], sink: Sink | None = None) -> dict[str, object]:
    """Return ``plugins`` such that ``sink`` is told of each call of their hooks, one line each.

    A line has the hook, the plugin, milliseconds and the answer. Arguments are not shown: a
    client's words and secrets are among them.

    Args:
        plugins: Plugin objects by name.
        sink: Writes a line; standard error without one.
    """
    write = sink or (lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    return {name: Traced(name, plugin, write) for name, plugin in plugins.items()}


class Traced:
    """A plugin whose hooks are watched; in all else it is the plugin."""

    def __init__(self, name: str, plugin: object, sink: Sink) -> None:
        self._plugin = plugin
        for attribute in dir(plugin):
            hook = getattr(plugin, attribute, None)
            if hasattr(hook, f"{PROJECT}_impl"):
                setattr(self, attribute, _watched(name, attribute, hook, sink))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plugin, name)


def _watched(name: str, hook: str, function: Any, sink: Sink) -> Callable[..., Any]:
    def line(began: float, outcome: str) -> str:
        taken = f"{(time.perf_counter() - began) * 1e3:.3f} ms"
        words = " ".join(outcome.split())
        shown = words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
        return f"hook {hook:<22} {name:<18} {taken:>12}  {shown}"

    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            answer = function(*args, **kwargs)
        except BaseException as error:
            sink(line(began, f"raised {type(error).__name__}: {error}"))
            raise
        sink(line(began, repr(answer)))
        return answer

    return watched
