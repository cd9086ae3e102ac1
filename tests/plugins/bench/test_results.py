import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.bench import plots
from mlxserve_plugins.bench.facts import about, machine
from mlxserve_plugins.bench.plots import draw, need_matplotlib
from mlxserve_plugins.bench.readme import ReportFlags, write_readme
from mlxserve_plugins.bench.report import Plot, Report, save

from .test_bench import bench

PNG = b"\x89PNG"
ABOUT = {
    "benchmark": "compare",
    "command": "mlxserve bench compare -- --model m",
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "a fast one"},
    "versions": {"mlx": "0.32.2"},
}
PLOT = Plot(name="p", title="T", x="x", y="y", lines={"a": [(1, 2.0), (2, 3.0)]}, level=1.0)


def compared(scenario: str, speedup: float | None, least: float, most: float) -> dict[str, Any]:
    return {
        "scenario": scenario, "clients": 8, "against": "peer", "figure": "tokens/s",
        "mlxserve": 1.0, "other": 2.0, "speedup": speedup, "least": least, "most": most,
    }  # fmt: skip


def written(folder: Path, *rows: Mapping[str, Any], **changes: Any) -> str:
    """Return the README of a folder with one result."""
    report = Report(title="Two servers", rows=rows, about=ABOUT, **changes)
    save(report, folder, "first")
    write_readme(ReportFlags(folder=str(folder)))
    return (folder / "README.md").read_text("utf-8")


def after(text: str) -> str:
    return text.split("## Where it is not faster\n", 1)[1]


def test_a_readme_says_with_what_and_when(tmp_path: Path) -> None:
    text = written(tmp_path, compared("chat", 2.0, 1.9, 2.1), notes=["a note"])
    for part in (
        ABOUT["command"], ABOUT["date"], "cpu a fast one", "mlx 0.32.2", "[first.json](first.json)",
        "| chat | 8 | peer | tokens/s | 1 | 2 | 2 | 1.9 | 2.1 |", "- a note",
    ):  # fmt: skip
        assert str(part) in text


def test_what_is_slower_is_named_the_slowest_first(tmp_path: Path) -> None:
    text = written(
        tmp_path,
        compared("chat", 0.8, 0.7, 0.9),
        compared("burst", 0.5, 0.4, 0.6),
        compared("single", 1.2, 0.9, 1.4),
        compared("agent", 2.0, 1.9, 2.1),
        compared("copy", None, 0.0, 0.0),
    )
    slower = after(text)
    assert "2 of 4 figures have a median speedup below 1" in slower
    assert slower.index("burst") < slower.index("chat") < slower.index("single")
    assert "1 more were below 1 in some pair" in slower
    assert "single at 8, tokens/s: 0.90 to 1.40, median 1.20" in slower
    assert "agent" not in slower


def test_a_readme_without_slower_figures_says_so(tmp_path: Path) -> None:
    text = written(tmp_path, compared("chat", 2.0, 1.9, 2.1))
    assert "Of 1 figures none has a median speedup below 1." in after(text)


def test_a_readme_without_comparison_claims_nothing(tmp_path: Path) -> None:
    assert "Nothing here compares servers" in after(written(tmp_path, {"step_ms": 3.0}))


def test_a_second_table_and_plots_are_there(tmp_path: Path) -> None:
    text = written(tmp_path, {"kind": "reply"}, also=[{"figure": "threads"}], plots=[PLOT])
    assert "| figure |\n|---|\n| threads |" in text
    assert "![first-p](first-p.png)" in text
    assert (tmp_path / "first-p.png").read_bytes().startswith(PNG)


def test_other_json_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "strange.json").write_text("[1, 2]")
    assert "strange" not in written(tmp_path, compared("chat", 2.0, 1.9, 2.1))


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Report(title="T", rows=[{"a": 1}], about=ABOUT), tmp_path, "one")
    assert bench("report", str(tmp_path)) == 0
    assert "one.json" in capsys.readouterr().out
    assert (tmp_path / "README.md").is_file()


def test_plots_without_matplotlib_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"pip install 'mlxserve\[bench\]'"):
        need_matplotlib()
    with pytest.raises(SettingError, match="plots need matplotlib"):
        bench("serve", "--plots")
    text = written(tmp_path, compared("chat", 2.0, 1.9, 2.1), plots=[PLOT])
    assert "plots need matplotlib" in capsys.readouterr().err
    assert "![" not in text


BARS = Plot(name="b", title="T", x="x", y="", bars={"a": (1.0, 0.5, 2.0)}, level=1.0)


@pytest.mark.parametrize("plot", [PLOT, BARS], ids=["lines", "bars"])
def test_a_plot_is_a_picture(plot: Plot, tmp_path: Path) -> None:
    (path,) = draw([plot], tmp_path)
    assert path.read_bytes().startswith(PNG)


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    report = Report(title="T", rows=[{"a": 1.5}], plots=[PLOT], raw=[{"b": None}], about=ABOUT)
    found = json.loads(save(report, tmp_path / "new", "n").read_text())
    assert found["plots"][0]["lines"] == {"a": [[1, 2.0], [2, 3.0]]}
    assert found["raw"] == [{"b": None}]
    assert found["about"] == ABOUT


def test_a_folder_that_takes_no_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="--output"):
        save(Report(title="T", rows=[]), tmp_path / "file", "n")


def test_what_it_ran_on_is_known() -> None:
    def said(words: Sequence[str]) -> str:
        return "GPU A, 80 GiB\nGPU A, 80 GiB" if words[0] == "nvidia-smi" else ""

    assert machine(said)["gpu"] == "GPU A, 80 GiB; GPU A, 80 GiB"
    found = about(("mlxserve", "bench", "compare", "--peer-args", "--a 1"))
    assert found["command"] == "mlxserve bench compare --peer-args '--a 1'"
    assert found["machine"]["cores"] >= 1
    assert {"python", "mlx", "mlxserve"} <= found["versions"].keys()
    assert found["versions"]["python"].startswith(f"{sys.version_info[0]}.")
