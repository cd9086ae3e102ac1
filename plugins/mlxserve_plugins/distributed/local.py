"""Start the ranks of a run on this machine."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from mlxserve_hookspecs import PROJECT, SettingError
from mlxserve_plugins.distributed.environment import common, own
from mlxserve_plugins.distributed.supervisor import Command, supervise

LOOPBACK = "127.0.0.1"


class UnavailableError(SettingError):
    """What was asked for makes sense and cannot be had here; one rank might do instead."""


def server_command(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command line that runs this server with these arguments."""
    return (sys.executable, "-m", PROJECT, *argv)


def rank_commands(
    argv: Sequence[str], each: Sequence[Mapping[str, str]], control_port: int
) -> list[Command]:
    """Return one command per entry of ``each``, the variables that only that rank gets."""
    shared = {**os.environ, **common(len(each), (LOOPBACK, control_port))}
    line = server_command(argv)
    return [Command(line, {**shared, **own(at), **its}) for at, its in enumerate(each)]


def run_here(
    argv: Sequence[str], each: Sequence[Mapping[str, str]], control_port: int | None = None
) -> int:
    """Run one rank per entry of ``each`` on this machine; return the status of the whole."""
    port = free_ports(1)[0] if control_port is None else control_port
    return supervise(rank_commands(argv, each, port))


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on, all different.

    They are free when this returns, and may be taken when they are used: then the rank that
    finds its port in use ends the run.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def count_of_ranks(asked: int | None, listed: int | None, where: str = "") -> int | None:
    """Return how many ranks there are, by flag or by file; ``None`` if neither says.

    Raises:
        SettingError: They contradict each other.
    """
    if asked is not None and listed is not None and asked != listed:
        raise SettingError(
            f"--num-local-ranks {asked} contradicts {where}, which lists {listed}; leave one out"
        )
    return listed if asked is None else asked
