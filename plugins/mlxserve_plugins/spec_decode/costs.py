"""What a pass costs: measured, smoothed, and guessed from its neighbours where it was not."""

from collections.abc import Mapping
from typing import Final

from attrs import define, field

SMOOTHING: Final = 0.2
"""Weight of a new measurement."""

OUTLIER: Final = 2.0
"""A measurement counts as at most so many times what is known: a pause is not a price."""

STALE: Final = 500
"""Passes after which a price is forgotten: the rows have become longer or shorter."""

ENOUGH: Final = 3
"""Plain steps that must be measured before anything is compared with them."""

DEFAULT_SLOPE: Final = 0.1
"""What a further token per row is taken to cost, in plain steps, until it is measured."""


@define
class Price:
    """One smoothed measurement, when it was last taken, and how often."""

    seconds: float
    taken: int
    times: int = 1


@define(eq=False)
class Costs:
    """Seconds of plain steps and of passes with drafts, by rows and width.

    Rows are put together by powers of two.

    Attributes:
        passes: Passes with drafts that were measured.
    """

    passes: int = 0
    _plain: dict[int, Price] = field(factory=dict)
    _wide: dict[tuple[int, int], Price] = field(factory=dict)
    _since: dict[int, int] = field(factory=dict)
    _seen: set[tuple[int, int]] = field(factory=set)

    def plain(self, rows: int) -> float | None:
        """Return the seconds of a step without drafts, if that was measured often enough."""
        price = self._plain.get(bucket(rows))
        return None if price is None or price.times < ENOUGH else price.seconds

    def passes_since_plain(self, rows: int) -> int:
        """Return how many passes there were since the last plain step of so many rows."""
        return self._since.get(bucket(rows), 0)

    def restart(self, rows: int) -> None:
        """Count passes since the last plain step from 0, as if there had been one."""
        self._since[bucket(rows)] = 0

    def took_plain(self, rows: int, seconds: float) -> None:
        """Note a step without drafts."""
        at = bucket(rows)
        self._since[at] = 0
        self._plain[at] = self._smooth(self._plain.get(at), seconds)

    def took(self, rows: int, width: int, seconds: float) -> None:
        """Note a pass; the first of a shape counts for nothing, because kernels are made in it."""
        at = (bucket(rows), width)
        self.passes += 1
        self._since[at[0]] = self._since.get(at[0], 0) + 1
        if at in self._seen:
            self._wide[at] = self._smooth(self._wide.get(at), seconds)
        self._seen.add(at)

    def of(self, rows: int, width: int) -> float | None:
        """Return the seconds of a pass; between measured widths the way is straight."""
        plain = self.plain(rows)
        if plain is None:
            return None
        known = self._known(rows, plain)
        if width in known:
            return known[width]
        below = max(w for w in known if w < width)
        above = min((w for w in known if w > width), default=None)
        if above is not None:
            slope = (known[above] - known[below]) / (above - below)
        elif below > 1:
            slope = max(known[below] - plain, 0.0) / (below - 1)
        else:
            slope = DEFAULT_SLOPE * plain
        return known[below] + slope * (width - below)

    def table(self) -> Mapping[str, Mapping[str, float]]:
        """Return what was measured, in milliseconds, by rows and width; safe on any thread."""
        found: dict[str, dict[str, float]] = {}
        wide = [((rows, 1), price) for rows, price in self._plain.copy().items()]
        for (rows, width), price in sorted([*wide, *self._wide.copy().items()], key=_shape):
            found.setdefault(str(rows), {})[str(width)] = round(price.seconds * 1000, 4)
        return found

    def _known(self, rows: int, plain: float) -> dict[int, float]:
        mine = bucket(rows)
        fresh = {
            width: price.seconds
            for (at, width), price in self._wide.items()
            if at == mine and self.passes - price.taken <= STALE
        }
        return {1: plain} | fresh

    def _smooth(self, known: Price | None, seconds: float) -> Price:
        if known is None:
            return Price(seconds, self.passes)
        seconds = min(seconds, OUTLIER * known.seconds)
        smoothed = known.seconds + SMOOTHING * (seconds - known.seconds)
        return Price(smoothed, self.passes, known.times + 1)


def bucket(rows: int) -> int:
    """Return ``rows`` rounded up to a power of two."""
    return 1 << max(rows - 1, 0).bit_length()


def _shape(entry: tuple[tuple[int, int], Price]) -> tuple[int, int]:
    return entry[0]
