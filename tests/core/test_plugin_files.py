"""Plugins in files, and a look at each call of a hook."""

import json
from pathlib import Path

import pytest

from mlxserve.cli import main
from mlxserve.tracing import traced

FILE = '''"""A policy to try out."""

from mlxserve_hookspecs import Command, SchedulingPolicy, hookimpl


class Mine:
    """Says so."""

    @hookimpl
    def make_policy(self) -> SchedulingPolicy:
        return "mine"

    @hookimpl
    def commands(self) -> list[Command]:
        return [Command(name="mine", help="say so", add_arguments=print, run=lambda _: 7)]
'''


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main(["plugins", "--json", *words]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_a_file_is_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_policy.py").write_text(FILE)
    path = str(tmp_path / "my_policy.py")
    first = rows(capsys, "--plugins", path)[0]
    assert (first["name"], first["distribution"]) == ("my-policy", path)
    assert (first["active"], first["hooks"]) == (True, ["commands", "make_policy"])
    assert main(["mine", "--plugins", path]) == 7


def test_a_file_replaces_a_builtin_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fcfs.py").write_text(FILE)
    first = rows(capsys, "--plugins", str(tmp_path / "fcfs.py"))[0]
    assert (first["name"], first["replaces_builtin"]) == ("fcfs", True)


def test_a_file_may_be_named_in_a_settings_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_policy.py").write_text(FILE)
    (tmp_path / "s.toml").write_text(f'plugins = ["{tmp_path}/my_policy.py"]\n')
    assert rows(capsys, "--config", str(tmp_path / "s.toml"))[0]["name"] == "my-policy"


def test_every_file_of_a_folder_is_a_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.py", "two.py", "_helper.py"):
        (tmp_path / name).write_text(FILE)
    monkeypatch.setenv("MLXSERVE_PLUGINS_DIR", str(tmp_path))
    assert [row["name"] for row in rows(capsys)[:2]] == ["one", "two"]
    monkeypatch.delenv("MLXSERVE_PLUGINS_DIR")
    named = rows(capsys, "--plugins-dir", str(tmp_path), "--plugins", "no:two")
    assert next(row["name"] for row in named if row["active"]) == "one"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this one has none"),
        (FILE + FILE.replace("class Mine", "class Other"), "this one has Mine, Other"),
        ("1 / 0", "ZeroDivisionError"),
    ],
    ids=["no plugin", "two plugins", "broken"],
)
def test_a_file_that_is_no_plugin_is_one_line(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.py").write_text(text)
    assert main(["config", "--plugins", str(tmp_path / "x.py")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_missing_file_or_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "--plugins", str(tmp_path / "x.py")]) == 2
    assert "there is no plugin at" in capsys.readouterr().err
    assert main(["config", "--plugins-dir", str(tmp_path / "x")]) == 2
    assert "there is no folder of plugins at" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text(FILE)
    both = f"{tmp_path}/a/x.py,{tmp_path}/b/x.py"
    assert main(["config", "--plugins", both]) == 2
    assert "are both plugin 'x'; rename one" in capsys.readouterr().err


def test_hook_calls_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_policy.py").write_text(FILE)
    monkeypatch.setenv("MLXSERVE_TRACE_HOOKS", "1")
    assert main(["mine", "--plugins", str(tmp_path / "my_policy.py")]) == 7
    said = capsys.readouterr().err
    assert "warning" not in said
    (line,) = [line for line in said.splitlines() if line.split()[2] == "my-policy"]
    assert line.startswith("hook commands")
    assert " ms  [Command(name='mine'" in line


def test_what_a_hook_raises_is_shown_and_raised() -> None:
    from mlxserve_hookspecs import hookimpl

    class Bad:
        @hookimpl
        def make_policy(self) -> None:
            raise ValueError("two\nlines")

    lines: list[str] = []
    plugin: object = traced({"bad": Bad()}, lines.append)["bad"]
    with pytest.raises(ValueError, match="two"):
        plugin.make_policy()  # type: ignore[attr-defined]
    assert lines[0].endswith("raised ValueError: two lines")
