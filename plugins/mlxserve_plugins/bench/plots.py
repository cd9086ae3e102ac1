"""Draw what a benchmark found, with matplotlib: the extra ``bench``."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.bench.report import Plot

MISSING: Final = "plots need matplotlib: pip install 'mlxserve[bench]'"
INCHES: Final = (7.0, 4.0)
BAR_INCHES: Final = 0.25


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def need_matplotlib() -> None:
    """Return if plots can be drawn.

    Raises:
        SettingError: They cannot.
    """
    if not can_draw():
        raise SettingError(MISSING)


def draw(plots: Iterable[Plot], folder: Path) -> list[Path]:
    """Draw each plot into ``folder`` as a PNG; return the files. Needs matplotlib."""
    # Without a window, and without a global figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    written = []
    for plot in plots:
        height = max(INCHES[1], BAR_INCHES * len(plot.bars))
        figure: Any = Figure(figsize=(INCHES[0], height), layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure.add_subplot(), plot)
        path = folder / f"{plot.name}.png"
        figure.savefig(path, dpi=120)
        written.append(path)
    return written


def _fill(axes: Any, plot: Plot) -> None:
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.grid(alpha=0.3)
    if plot.bars:
        _fill_bars(axes, plot)
        return
    for name, points in plot.lines.items():
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, marker="o" if len(points) < 50 else None, label=name)  # noqa: PLR2004
    if plot.level is not None:
        axes.axhline(plot.level, color="0.5", linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)
    if len(plot.lines) > 1:
        axes.legend()


def _fill_bars(axes: Any, plot: Plot) -> None:
    names = [*plot.bars]
    values = [value for value, _, _ in plot.bars.values()]
    below = [value - least for value, least, _ in plot.bars.values()]
    above = [most - value for value, _, most in plot.bars.values()]
    axes.barh(names, values, xerr=(below, above), color="0.7")
    axes.invert_yaxis()  # the first on top
    if plot.level is not None:
        axes.axvline(plot.level, color="0.3", linestyle="--", linewidth=1)
