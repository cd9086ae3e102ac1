"""What a benchmark found, for people and for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

GAP: Final = "  "


@frozen(kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: What was measured, in words.
        rows: The figures; all rows have the same names.
        notes: What is to be known beside them.
        failed: Whether something happened that must not.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    failed: bool = False


def show(report: Report, *, as_json: bool) -> int:
    """Print a report and return the exit status."""
    sys.stdout.write((_as_json(report) if as_json else as_text(report)) + "\n")
    sys.stdout.flush()
    return int(report.failed)


def tell(line: str) -> None:
    """Say on standard error how far it has come."""
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


def as_text(report: Report) -> str:
    """Return a report as a table."""
    lines = [report.title, *table(report.rows), *report.notes]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield a heading and one line per row, in columns."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(names))]
    for line in cells:
        yield GAP.join(text.rjust(width) for text, width in zip(line, widths, strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004
    return str(value)


def _as_json(report: Report) -> str:
    found = {"title": report.title, "rows": [*report.rows], "notes": [*report.notes]}
    return json.dumps(found, indent=2)
