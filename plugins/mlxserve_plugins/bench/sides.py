"""The servers of a comparison: how each is started, and who runs when."""

import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from mlxserve_plugins.bench.crowd import Place
from mlxserve_plugins.bench.process import Command, Started, own_cache

PEER: Final = "mlx_lm.server"
OURS: Final = "mlxserve"


@frozen(kw_only=True)
class Side:
    """One server of a comparison.

    Attributes:
        name: What it is called in the report.
        command: How it is started.
        api_key: A key, if it wants one.
    """

    name: str
    command: Command
    api_key: str = field(default="", repr=False)

    def place(self, started: Started) -> Place:
        """Return where requests go. Neither is told a model: each serves the one it was given."""
        return Place(url=started.url, api_key=self.api_key)


def our_side(
    words: Sequence[str],
    extra: Sequence[str],
    folder: Path,
    run: Sequence[str],
    api_key: str = "",
) -> Side:
    """Return mlxserve with the user's flags and a scenario's own.

    Args:
        words: The user's flags.
        extra: The scenario's.
        folder: Where its log is, and its KV.
        run: What starts a server.
        api_key: A key, where the flags ask for one.
    """
    name = " ".join((OURS, *extra))
    cache = own_cache(folder / f"kv{_slug(extra)}")
    log = folder / f"mlxserve{_slug(extra)}.log"
    command = Command(words=(*words, *extra), log=log, run=run, variables=cache)
    return Side(name=name, command=command, api_key=api_key)


def peer_side(
    model: Path, words: Sequence[str], variables: Mapping[str, str], folder: Path
) -> Side:
    """Return mlx_lm.server on the same weights."""
    command = Command(
        words=("--model", str(model), "--log-level", "WARNING", *words),
        log=folder / "peer.log",
        run=(sys.executable, "-m", "mlx_lm", "server"),
        ready="/health",
        variables=variables,
        orderly=False,
    )
    return Side(name=PEER, command=command)


@define
class Stage:
    """Both servers of a scenario, under load one at a time.

    Both are up all the while, so that a run of one follows a run of the other at once and what
    else the machine does meets both. With ``exclusive`` each is started for its run and stopped
    after it: for memory that holds one only.
    """

    sides: Sequence[Side]
    exclusive: bool
    _stack: AsyncExitStack = field(factory=AsyncExitStack)
    _places: list[Place] = field(factory=list)

    async def __aenter__(self) -> "Stage":
        """Start what stays up."""
        if not self.exclusive:
            try:
                for side in self.sides:
                    started = await self._stack.enter_async_context(side.command.running())
                    self._places.append(side.place(started))
            except BaseException:
                await self._stack.aclose()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        await self._stack.aclose()

    @asynccontextmanager
    async def on(self, number: int) -> AsyncIterator[Place]:
        """Yield where the server of that number is."""
        if not self.exclusive:
            yield self._places[number]
            return
        side = self.sides[number]
        async with side.command.running() as started:
            yield side.place(started)


def words_of(text: str) -> tuple[str, ...]:
    """Read words as a shell does."""
    return tuple(shlex.split(text))


def variables_of(text: str) -> Mapping[str, str]:
    """Read ``NAME=VALUE`` pairs with white space between them."""
    found = {}
    for word in shlex.split(text):
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"{word} is not NAME=VALUE")
        found[name] = value
    return found


def peer_of(text: str) -> str:
    """Read the name of a server to compare with."""
    if text != PEER:
        raise ValueError(f"no such peer; known: {PEER}")
    return text


def _slug(words: Sequence[str]) -> str:
    return "".join(f"-{word.strip('-')}" for word in words)
