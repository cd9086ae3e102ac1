"""The contracts of installed plugins, for pytest: their names and flags are in a variable."""

import json
import os
from functools import partial
from importlib.metadata import EntryPoints, entry_points
from typing import Any, Final, cast

import pytest

from mlxserve.cli.resolution import resolve
from mlxserve.loading import installed
from mlxserve.testing.contracts import Contract
from mlxserve.testing.suites import contracts_of, suite

VARIABLE: Final = "MLXSERVE_TESTING_CHECK"
"""JSON: ``names`` of plugins, and ``words`` of ``mlxserve run`` for their options."""

OWN: Final = ("bad", "call", "demand", "ended", "good", "known", "missing", "replies", "whole")
"""Fixtures of contracts that only a plugin's author can fill."""

VACUOUS: Final = ("test_it_guesses", "test_something_is_offered", "test_something_is_read")
"""Clauses about an author's own fixtures."""


def suites(names: list[str], words: list[str]) -> dict[str, type[Contract]]:
    """Return a suite for each family of each plugin, with options as ``words`` set them."""

    def make(name: str) -> object:
        found = installed(cast(EntryPoints, entry_points()))
        resolved, _ = resolve(("--plugins", name, *words), {}, found)
        return resolved.plugins.get_plugin(name)

    found = {}
    for name in names:
        for contract in contracts_of(make(name)):
            made = suite(contract, partial(make, name))
            title = "".join(part.title() for part in name.split("-"))
            made.__name__ = f"Test{title}{contract.__name__}"
            for fixture in OWN:
                if hasattr(contract, fixture):
                    setattr(made, fixture, _skipping(fixture))
            for clause in VACUOUS:
                if hasattr(contract, clause):
                    setattr(made, clause, None)
            found[made.__name__] = made
    return found


def _skipping(name: str) -> Any:
    def skip(_self: object) -> None:
        pytest.skip(f"only the plugin's own tests know `{name}`")

    return pytest.fixture(skip)


if VARIABLE in os.environ:
    globals().update(suites(**json.loads(os.environ[VARIABLE])))
