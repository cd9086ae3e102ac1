"""Plugins that keep a contract but for one thing."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

from mlxserve.testing import Contract
from mlxserve.testing.suites import suite
from mlxserve_hookspecs import hookimpl


class But:
    """An object of which some attributes are others; those that are functions get it first."""

    def __init__(self, inner: Any, changes: dict[str, Any]) -> None:
        self._inner, self._changes = inner, changes

    def __getattr__(self, name: str) -> Any:
        if name not in self._changes:
            return getattr(self._inner, name)
        change = self._changes[name]
        return partial(change, self._inner) if callable(change) else change


def but(plugin: object, hook: str, **changes: Any) -> Callable[[], object]:
    """Return what makes a plugin whose answer to ``hook`` is another in ``changes``."""
    answer = getattr(plugin, hook)

    @wraps(answer)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return But(answer(*args, **kwargs), changes)

    return lambda: SimpleNamespace(**{hook: changed})


def answering(**hooks: Callable[..., Any]) -> Callable[[], object]:
    """Return what makes a plugin of these functions."""
    return lambda: SimpleNamespace(**{name: hookimpl(hook) for name, hook in hooks.items()})


def collected(
    tables: Mapping[type[Contract], Mapping[str, Any]], **fixtures: object
) -> dict[str, type[Contract]]:
    """Return a suite for each clause of ``tables``, which must fail, for pytest to collect.

    A clause has what makes its broken plugin, and may have fixtures of its own: a pair.
    """
    found = {}
    for contract, table in tables.items():
        common = {name: value for name, value in fixtures.items() if hasattr(contract, name)}
        for clause, entry in table.items():
            plugin, own = entry if isinstance(entry, tuple) else (entry, {})
            made = suite(contract, plugin, **(common | own))
            made.__name__ = f"Test_{contract.__name__}_{clause}"
            made.contract, made.clause = contract, f"test_{clause}"  # type: ignore[attr-defined]
            found[made.__name__] = made
    return found
