"""What a benchmark found, for people and for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import asdict, field, frozen

from mlxserve_hookspecs import SettingError

GAP: Final = "  "


@frozen(kw_only=True)
class Plot:
    """A picture of figures, as data: whoever has the JSON can draw it.

    Attributes:
        name: Its file, without an ending.
        title: What it shows.
        x: What the horizontal axis is.
        y: What the vertical axis is.
        lines: Points by the name of their line.
        bars: In place of lines: a value, its least and its most, by the bar's name.
        level: A horizontal line to compare with.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(factory=dict)
    bars: Mapping[str, tuple[float, float, float]] = field(factory=dict)
    level: float | None = None


@frozen(kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: What was measured, in words.
        rows: The figures; all rows have the same names.
        also: A second table, of other names.
        notes: What is to be known beside them.
        failed: Whether something happened that must not.
        raw: Everything that the rows were made of.
        plots: Pictures of it.
        about: What was measured with: machine, versions, date, command.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    also: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    failed: bool = False
    raw: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    plots: Sequence[Plot] = field(default=(), repr=False)
    about: Mapping[str, Any] = field(factory=dict)


def show(report: Report, *, as_json: bool) -> int:
    """Print a report and return the exit status."""
    sys.stdout.write((as_json_text(report) if as_json else as_text(report)) + "\n")
    sys.stdout.flush()
    return int(report.failed)


def save(report: Report, folder: Path, name: str) -> Path:
    """Write a report as ``NAME.json`` into ``folder``; return the file.

    Raises:
        SettingError: That folder takes no files.
    """
    path = folder / f"{name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(as_json_text(report) + "\n", "utf-8")
    except OSError as error:
        raise SettingError(f"--output {folder}: {error.strerror}") from error
    return path


def tell(line: str) -> None:
    """Say on standard error how far it has come; a progress bar makes room."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm  # noqa: PLC0415 - only where a bar is drawn

        tqdm.write(f"bench: {line}", file=sys.stderr)
    else:
        sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


def as_text(report: Report) -> str:
    """Return a report as a table."""
    also = ("", *table(report.also), "") if report.also else ()
    lines = [report.title, *table(report.rows), *also, *report.notes]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield a heading and one line per row, in columns."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(names))]
    for line in cells:
        yield GAP.join(text.rjust(width) for text, width in zip(line, widths, strict=True))


def cell(value: Any) -> str:
    """Return a figure as people read it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004
    return str(value)


def as_json_text(report: Report) -> str:
    """Return a report with everything that is in it."""
    found = {key: value for key, value in asdict(report).items() if value or key != "failed"}
    return json.dumps(found, indent=1)
