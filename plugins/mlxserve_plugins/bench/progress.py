"""How far a benchmark has come, as a bar on a terminal."""

from typing import Any

from attrs import define


@define
class Bar:
    """A progress bar over so many runs; ``with`` draws and ends it."""

    runs: int
    _bar: Any = None
    _begun: bool = False

    def __enter__(self) -> "Bar":
        """Draw it."""
        from tqdm import tqdm  # noqa: PLC0415 - only where something is measured

        # Nothing where nobody looks: a log full of bars helps nobody.
        self._bar = tqdm(total=self.runs, unit="run", disable=None, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal tidy."""
        if self._begun:
            self._bar.update()
        self._bar.close()

    def now(self, what: str) -> None:
        """Say what begins; what was said before is done."""
        if self._begun:
            self._bar.update()
        self._begun = True
        self._bar.set_description(what)
