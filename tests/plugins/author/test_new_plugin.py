"""What ``mlxserve new-plugin`` writes is whole, and keeps its family's contract."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlxserve.cli import main
from mlxserve.testing import CONTRACTS
from mlxserve_hookspecs import SettingError
from mlxserve_plugins.author.writing import families, write

QUICK = "not engine"
"""Leaves out the clauses that start an engine: the tox environment `families` runs them all."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return a package of each family."""
    out = tmp_path_factory.mktemp("packages")
    return {family: write(f"my-{family}", family, out) for family in families()}


@pytest.fixture(scope="module")
def outcomes(written: Mapping[str, Path]) -> dict[str, list[str]]:
    """Run the tests of all packages in one session; return how they ended, by package."""
    found: dict[str, list[str]] = {}

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.failed:
                module = Path(report.nodeid.partition("::")[0]).stem.removeprefix(
                    "test_mlxserve_my_"
                )
                found.setdefault(module, []).append(f"{report.outcome}: {report.nodeid}")

    paths = list(map(str, written.values()))
    before = sys.path[:]
    sys.path[:0] = paths
    try:
        quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "--tb=short")
        pytest.main([*quiet, "--import-mode=importlib", "-k", QUICK, *paths], plugins=[Watch()])
    finally:
        sys.path[:] = before
        for family in written:
            sys.modules.pop(f"mlxserve_my_{family}", None)
    return found


def test_every_contract_has_a_family_to_start_from() -> None:
    text = "".join(families().values())
    assert [one.__name__ for one in CONTRACTS if f"({one.__name__})" not in text] == []


@pytest.mark.parametrize("family", families())
def test_package_passes_its_own_tests(family: str, outcomes: Mapping[str, list[str]]) -> None:
    went = outcomes[family]
    assert [one for one in went if one.startswith("failed")] == []
    assert sum(one.startswith("passed") for one in went) >= 3


@pytest.mark.parametrize("family", families())
def test_package_is_whole(family: str, written: Mapping[str, Path]) -> None:
    folder = written[family]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    module, _, plugin = project["entry-points"]["mlxserve"][f"my-{family}"].partition(":")
    assert f"class {plugin}:" in (folder / f"{module}.py").read_text()
    assert f"class {plugin}Options:" in (folder / f"{module}.py").read_text()
    assert project["name"] in (folder / "README.md").read_text()
    assert "pytest" in (folder / ".github/workflows/test.yml").read_text()


def test_package_may_replace_a_builtin(tmp_path: Path) -> None:
    folder = write("mine", "policy", tmp_path, replaces="fcfs")
    assert 'fcfs = "mlxserve_mine:Mine"' in (folder / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["Mine", "my_plugin", "", "-x", "1st", "a b", "../x"])
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="lower case with hyphens"):
        write(name, "policy", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write("mine", "policy", tmp_path)
    with pytest.raises(SettingError, match="is there already"):
        write("mine", "tier", tmp_path)


def test_command_says_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["new-plugin", "mine", "--family", "policy", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"pip install -e '{tmp_path}/mlxserve-mine[test]'" in said
    assert "--plugins mine" in said
