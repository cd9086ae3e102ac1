"""Run one process per rank, as one: they start, are stopped and end together."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from attrs import define, field, frozen

from mlxserve_plugins.distributed.environment import LEASH

GRACE: Final = 5.0
"""Seconds between asking a rank to end and killing it, once another has ended badly."""

PATIENCE: Final = 10.0
"""Seconds that the others have to follow a rank 0 that ended well."""

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STDERR: Final = 2
LAUNCHER: Final = "mlx.launch"


@frozen
class Command:
    """How one rank is started, or one launcher of others.

    Attributes:
        argv: The command line.
        env: All of its environment, but for the leash.
        stop: What its stdin is told instead of a first signal. A command that is told so is
            ``mlx.launch``, which ends with 0 whatever its ranks did.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    stop: bytes = b""


def supervise(
    commands: Sequence[Command], *, grace: float = GRACE, patience: float = PATIENCE
) -> int:
    """Run all ``commands``, the first as rank 0, and return the status of the whole.

    That is the first status that is not 0; ended by signal n counts as 128 + n. A first signal
    goes to rank 0, which drains and tells the others; a second one kills all.

    Args:
        commands: One per rank.
        grace: Seconds between SIGTERM and SIGKILL when a rank ended badly.
        patience: Seconds that the others have to follow rank 0.
    """
    return asyncio.run(Supervisor(grace, patience).run(commands))


@define(eq=False)
class Supervisor:
    """The ranks of one run. Main thread only: Linux takes a thread's end for its parent's."""

    grace: float
    patience: float
    _ranks: list[Process] = field(factory=list, init=False)
    _stop: bytes = field(default=b"", init=False)
    _complete: bool = field(default=False, init=False)
    _status: int = field(default=0, init=False)
    _signal: signal.Signals | None = field(default=None, init=False)

    async def run(self, commands: Sequence[Command]) -> int:
        """Start all, wait for all; none is left when this returns or raises."""
        self._listen()
        self._stop = commands[0].stop
        held, end = os.pipe()
        try:
            for command in commands:
                self._ranks.append(await self._start(command, held))
            self._complete = True
            if self._signal:
                self._stop_first(self._signal)
            await asyncio.gather(*map(self._follow, self._ranks))
        finally:
            self._kill()
            os.close(held)
            os.close(end)
        return self._status

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the run is meant to outlive its terminal
            loop.add_signal_handler(number, self._hear, number)

    async def _start(self, command: Command, leash: int) -> Process:
        """Start a rank in a process group of its own: Ctrl-C is for the launcher to pass on.

        All ranks log to the launcher's stderr as they are: a prefix would spoil JSON lines. Only
        rank 0 has the launcher's stdin and stdout.
        """
        first = not self._ranks
        stdin = PIPE if command.stop else None if first else DEVNULL
        return await asyncio.create_subprocess_exec(
            *command.argv,
            env={**command.env, LEASH: str(leash)},
            stdin=stdin,
            stdout=None if first else STDERR,
            pass_fds=(leash,),
            process_group=0,
        )

    async def _follow(self, rank: Process) -> None:
        code = await rank.wait()
        status = code if code >= 0 else 128 - code
        if self._stop and self._signal is None:
            status = status or 1  # a server that nobody stopped did not end well
        if status and not self._status:
            self._status = status
            if self._signal is None:
                sys.stderr.write(f"mlxserve: {self._name(rank)} ended with status {status}\n")
        if status:
            self._end()
        elif rank is self._ranks[0]:
            asyncio.get_running_loop().call_later(self.patience, self._end)
        elif self._signal is None:
            asyncio.get_running_loop().call_later(self.patience, self._miss)

    def _name(self, rank: Process) -> str:
        return LAUNCHER if self._stop else f"rank {self._ranks.index(rank)}"

    def _miss(self) -> None:
        """End all when a rank has left, however well, and rank 0 goes on without it."""
        if self._ranks[0].returncode is None and self._signal is None:
            self._status = self._status or 1
            self._end()

    def _hear(self, number: signal.Signals) -> None:
        if self._signal is not None:
            self._status = self._status or 128 + number
            self._kill()
            return
        self._signal = number
        if self._complete:
            self._stop_first(number)

    def _stop_first(self, number: signal.Signals) -> None:
        if self._ranks[0].returncode is not None:
            self._end()
        if self._stop and (stdin := self._ranks[0].stdin):
            stdin.write(self._stop)
            return
        # A server knows no SIGHUP, and a closed terminal is no reason to cut requests off.
        _send(self._ranks[0], signal.SIGTERM if number is signal.SIGHUP else number)

    def _end(self) -> None:
        for rank in self._ranks:
            _send(rank, signal.SIGTERM)
        asyncio.get_running_loop().call_later(self.grace, self._kill)

    def _kill(self) -> None:
        for rank in self._ranks:
            if rank.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)


def _send(rank: Process, number: signal.Signals) -> None:
    if rank.returncode is None:
        with suppress(ProcessLookupError):
            rank.send_signal(number)
