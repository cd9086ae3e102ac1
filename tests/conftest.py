"""An installed world of plugins, built for one test; and how several workers share the tests."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoints, distributions
from pathlib import Path
from types import ModuleType

import pytest
from attrs import define, field
from hypothesis import settings

from mlxserve.loading import Installed, installed
from mlxserve.testing.logs import log_plainly

from .turns import Turns

HERE = Path(__file__).parent
SLOW = ("integration", "engine", "zoo")
"""Folders that workers begin with, so that what comes last is short."""
TURNS = pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    """Share turns with the other workers of this run, if there are any."""
    # How long an example takes says more of the other worker than of the code.
    settings.register_profile("mlxserve", deadline=None)
    settings.load_profile("mlxserve")
    if worker := getattr(config, "workerinput", None):
        turns = config.stash[TURNS] = Turns(worker["testrunuid"])
        config.add_cleanup(turns.close)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long."""
    if TURNS in config.stash:
        items.sort(key=_place)


def pytest_collection_finish() -> None:
    """Leave what was imported out of every garbage collection to come."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for a turn, and for an empty room if the test is marked ``alone``."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured: ``record_property("figure", "...")``."""
    reports = [each for several in terminalreporter.stats.values() for each in several]
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == "figure" and report.when == "call":
                terminalreporter.write_line(f"figure: {value}")


def _place(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0] if HERE in item.path.parents else ""
    return SLOW.index(folder) if folder in SLOW else len(SLOW)


@define
class World:
    """Distributions that announce plugins, as if pip had installed them.

    Attributes:
        folder: Where their metadata lies.
        monkeypatch: Undoes what is put into ``sys.modules``.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    _count: int = field(default=0, init=False)

    def add(
        self, distribution: str, points: Mapping[str, object], group: str = "mlxserve"
    ) -> "World":
        """Install ``distribution``: each point is an object, or an entry point's text as it is."""
        self._count += 1
        lines = [f"[{group}]", *(f"{name} = {self._value(p)}" for name, p in points.items())]
        info = self.folder / f"{distribution.replace('-', '_')}_{self._count}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n"
        )
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        return self

    @property
    def points(self) -> EntryPoints:
        """Every entry point of this world."""
        found = distributions(path=[str(self.folder)])
        return EntryPoints(point for dist in found for point in dist.entry_points)

    @property
    def installed(self) -> Installed:
        """What the server finds."""
        return installed(self.points)

    def _value(self, point: object) -> str:
        if isinstance(point, str):
            return point
        name = f"mlxserve_test_world_{id(point)}"
        module = ModuleType(name)
        module.__dict__["it"] = point
        self.monkeypatch.setitem(sys.modules, name, module)
        return f"{name}:it"


@pytest.fixture(autouse=True)
def plain_tracebacks() -> None:
    """Take no seconds for each exception that is logged."""
    log_plainly()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return an empty world."""
    folder = tmp_path / "site"
    folder.mkdir()
    return World(folder, monkeypatch)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a TOML file and returns its path."""

    def write(text: str, name: str = "settings.toml") -> str:
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write
