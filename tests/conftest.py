"""An installed world of plugins, built for one test: real metadata in a folder, nothing global."""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoints, distributions
from pathlib import Path
from types import ModuleType

import pytest
from attrs import define, field

from mlxserve.loading import Installed, installed


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
