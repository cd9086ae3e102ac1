"""``bench report``: a README of what was measured, from the JSON files in a folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.bench.flags import Common, flag
from mlxserve_plugins.bench.plots import MISSING, can_draw, draw
from mlxserve_plugins.bench.report import Plot, Report, cell, tell

README: Final = "README.md"
SAME: Final = 0.005
"""How far below 1 a ratio may be and still read as 1.00."""


@frozen(kw_only=True)
class ReportFlags(Common):
    """What ``bench report`` can be told: ``bench report FOLDER``."""

    folder: str = flag(".", "folder of JSON files that bench wrote, for the README")


def write_readme(flags: ReportFlags) -> Report:
    """Write ``README.md``, and the plots if matplotlib is there, beside the JSON files."""
    folder = Path(flags.folder)
    found = read_results(folder)
    if not found:
        raise SettingError(f"{folder} has no JSON file of bench: write some with --output")
    drawn = _draw(found, folder)
    (folder / README).write_text(readme(found, drawn), "utf-8")
    tell(f"wrote {folder / README}")
    rows = [{"file": f"{name}.json", "rows": len(one["rows"])} for name, one in found.items()]
    return Report(title=f"{len(found)} results", rows=rows)


def read_results(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what benchmarks wrote, by file; other JSON is left alone."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            one = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise SettingError(f"{path}: {error}") from error
        if isinstance(one, dict) and "benchmark" in (one.get("about") or {}):
            found[path.stem] = one
    return found


def readme(found: Mapping[str, Mapping[str, Any]], drawn: Mapping[str, Sequence[str]]) -> str:
    """Return the README's text.

    Args:
        found: Results by the name of their file.
        drawn: File names of plots, likewise.
    """
    lines = ["# Benchmarks", "", "Written by `mlxserve bench report` from the JSON files here.", ""]
    for name, one in found.items():
        lines += [*_result(name, one, drawn.get(name, ())), ""]
    lines += ["## Where it is not faster", "", *_slower(found)]
    return "\n".join(lines).rstrip() + "\n"


def _result(name: str, one: Mapping[str, Any], drawn: Sequence[str]) -> Iterator[str]:
    about = one["about"]
    yield f"## {about['benchmark']}: {name}"
    yield ""
    yield f"{one['title']}."
    yield ""
    yield from ("```bash", about["command"], "```", "")
    yield from (f"- {key}: {value}" for key, value in _facts(about))
    yield from (f"- raw figures: [{name}.json]({name}.json)", "")
    yield from _table(one["rows"])
    if one["also"]:
        yield from ("", *_table(one["also"]))
    yield from ("", *(f"- {note}" for note in one["notes"] if note.strip()))
    for path in drawn:
        yield from ("", f"![{Path(path).stem}]({path})")


def _facts(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "date", about["date"]
    yield "machine", ", ".join(f"{key} {value}" for key, value in about["machine"].items())
    yield "versions", ", ".join(f"{key} {value}" for key, value in about["versions"].items())


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = list(rows[0])
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for one in rows:
        yield f"| {' | '.join(cell(one.get(name)) for name in names)} |"


def _slower(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    compared = [
        (name, row)
        for name, one in found.items()
        for row in one["rows"]
        if row.get("speedup") is not None
    ]
    if not compared:
        yield "Nothing here compares servers: run `mlxserve bench compare`."
        return
    slower = [(name, row) for name, row in compared if row["speedup"] < 1.0 - SAME]
    if not slower:
        yield f"Of {len(compared)} figures none has a median speedup below 1."
    else:
        yield f"{len(slower)} of {len(compared)} figures have a median speedup below 1:"
        yield ""
        slower.sort(key=lambda pair: float(pair[1]["speedup"]))
        yield from _table([_compared(name, row) for name, row in slower])
    unsure = [
        row for _, row in compared if row["speedup"] >= 1.0 - SAME and row["least"] < 1.0 - SAME
    ]
    if unsure:
        yield ""
        yield f"{len(unsure)} more were below 1 in some pair, and not in the median:"
        yield ""
        yield from (
            f"- {row['scenario']} at {row['clients']}, {row['figure']}: "
            f"{row['least']:.2f} to {row['most']:.2f}, median {row['speedup']:.2f}"
            for row in unsure
        )


def _compared(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("scenario", "clients", "against", "figure", "mlxserve", "other")
    spread = {f"{key}": row[key] for key in ("speedup", "least", "most")}
    return {"result": name, **{key: row[key] for key in names}, **spread}


def _draw(found: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, list[str]]:
    if not can_draw():
        tell(MISSING)
        return {}
    drawn = {}
    for name, one in found.items():
        # Two results of one benchmark have plots of the same names.
        plots = [
            Plot(**{**plot, "name": f"{name}-{plot['name']}"}) for plot in one.get("plots", ())
        ]
        drawn[name] = [path.name for path in draw(plots, folder)]
    return drawn
