"""Each clause of each contract fails on a plugin that breaks it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from mlxserve.testing import CONTRACTS, Contract

HERE = Path(__file__).parent
FILES = ("broken_engine.py", "broken_text.py", "broken_serving.py")


def clauses(contract: type[Contract]) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


@define
class Watch:
    """Keeps of each suite the clause that it is to fail, and notes how it went.

    Attributes:
        went: What a clause ended with, by contract and clause: how each of its tests failed.
    """

    went: dict[tuple[str, str], list[str]] = field(factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._told(item)]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: "pytest.CallInfo[None]"
    ) -> Iterator[None]:
        yield
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            told: Any = item.cls
            name = (told.contract.__name__, told.clause)
            self.went.setdefault(name, []).append(f"{call.when}: {call.excinfo.typename}")

    @staticmethod
    def _told(item: pytest.Item) -> bool:
        assert isinstance(item, pytest.Function)
        told: Any = item.cls
        return bool(item.originalname == told.clause)


@pytest.fixture(scope="module")
def went() -> Mapping[tuple[str, str], list[str]]:
    """Run every broken plugin once, in a session of its own; return how the clauses failed."""
    watch = Watch()
    paths = [str(HERE / name) for name in FILES if (HERE / name).exists()]
    pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", *paths], plugins=[watch])
    return watch.went


@pytest.mark.parametrize(
    ("contract", "clause"),
    [
        pytest.param(contract, clause, id=f"{contract.__name__}-{clause}")
        for contract in CONTRACTS
        for clause in clauses(contract)
    ],
)
def test_clause_fails_on_a_plugin_that_breaks_it(
    contract: type[Contract], clause: str, went: Mapping[tuple[str, str], list[str]]
) -> None:
    how = went.get((contract.__name__, clause))
    assert how, "no plugin breaks it, or the one that does goes unnoticed"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_clause_says_what_it_wants(contract: type[Contract]) -> None:
    for clause in clauses(contract):
        words = getattr(contract, clause).__doc__
        assert words, clause
        assert words.strip().endswith(".")
