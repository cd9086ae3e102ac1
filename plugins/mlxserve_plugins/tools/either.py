"""Leave it to a call's first character which script reads it."""

from collections.abc import Callable
from typing import Any, Protocol

from mlxserve_hookspecs import ReplyPart
from mlxserve_plugins.tools.script import Status


class Script(Protocol):
    """Reads one call, or several between one pair of markers; as ``CallScript`` says."""

    @property
    def status(self) -> Status:
        """Whether it goes on."""

    @property
    def opened(self) -> bool:
        """Whether anything went out."""

    @property
    def broken(self) -> int:
        """Calls that broke after they had opened."""

    @property
    def rest(self) -> str:
        """The text after the last call."""

    def feed(self, text: str) -> None:
        """Take the next piece."""

    def finish(self) -> None:
        """Learn that nothing follows."""

    def take(self) -> list[ReplyPart]:
        """Return the parts since the last time."""


class Either:
    """Reads with ``this`` what begins with ``first``, with ``other`` what does not."""

    def __init__(
        self, tools: Any, first: str, this: Callable[[Any], Script], other: Callable[[Any], Script]
    ) -> None:
        self._tools, self._first = tools, first
        self._this, self._other = this, other
        self._held = ""
        self._chosen: Script | None = None
        self._ended = False

    @property
    def status(self) -> Status:
        """Whether it goes on."""
        if self._chosen is not None:
            return self._chosen.status
        return "broken" if self._ended else "open"

    @property
    def opened(self) -> bool:
        """Whether anything went out."""
        return self._chosen is not None and self._chosen.opened

    @property
    def broken(self) -> int:
        """Calls that broke after they had opened."""
        return self._chosen.broken if self._chosen else 0

    @property
    def rest(self) -> str:
        """The text after the last call."""
        return self._chosen.rest if self._chosen else self._held

    def feed(self, text: str) -> None:
        """Take the next piece."""
        if self._chosen is not None:
            self._chosen.feed(text)
            return
        self._held += text
        bare = self._held.lstrip()
        if bare:
            make = self._this if bare[0] == self._first else self._other
            self._chosen = make(self._tools)
            self._chosen.feed(self._held)

    def finish(self) -> None:
        """Learn that nothing follows."""
        self._ended = True
        if self._chosen is not None:
            self._chosen.finish()

    def take(self) -> list[ReplyPart]:
        """Return the parts since the last time."""
        return self._chosen.take() if self._chosen else []
