"""Contracts bound to plugins that are only known at run time."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mlxserve.testing.contracts import CONTRACTS, Contract
from mlxserve.testing.contracts.base import name_of
from mlxserve_hookspecs import PROJECT


def suite(
    contract: type[Contract], plugin: Callable[[], object], **fixtures: object
) -> type[Contract]:
    """Return ``contract`` with its fixture ``plugin`` overridden, for pytest to collect.

    Args:
        contract: The family's contract.
        plugin: Makes the plugin, for each test anew.
        fixtures: Values of other fixtures, or of attributes, by name.
    """
    body: dict[str, Any] = {"plugin": _fixture(plugin)}
    for name, value in fixtures.items():
        was = getattr(contract, name)
        body[name] = value if isinstance(was, bool | int | float | str) else _fixture_of(value)
    return type(f"Test{contract.__name__}", (contract,), body)


def contracts_of(plugin: object) -> Iterable[type[Contract]]:
    """Return the contracts of the families that ``plugin`` is of."""
    for contract in CONTRACTS:
        names = [name_of(hook) for hook in contract.hooks]
        if any(hasattr(getattr(plugin, name, None), f"{PROJECT}_impl") for name in names):
            yield contract


def _fixture_of(value: object) -> Any:
    return _fixture(lambda: value)


def _fixture(make: Callable[[], object]) -> Any:
    def made(_self: object) -> object:
        return make()

    return pytest.fixture(made)
