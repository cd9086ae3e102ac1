"""Split a model over ranks that talk by TCP: processes of this machine, or several machines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final

from attrs import define, frozen

from mlxserve_hookspecs import RankPlan, SettingError, option
from mlxserve_plugins.distributed.hostfile import Hostfile, read_hostfile
from mlxserve_plugins.distributed.local import (
    LOOPBACK,
    UnavailableError,
    count_of_ranks,
    free_ports,
    run_here,
    server_command,
)
from mlxserve_plugins.distributed.member import Backend
from mlxserve_plugins.distributed.remote import Launch, run_there

FLAG: Final = "--distributed-hostfile"
PORT: Final = 32323
"""Where the ranks of several machines meet, counting upward."""


@frozen
class RingOptions:
    """Ranks in a ring of TCP connections."""

    hostfile: Path | None = option(
        None, "JSON file of hosts, in the format of mlx.launch", flag=FLAG, env="MLX_HOSTFILE"
    )


def ring_of(size: int, ports: Sequence[int]) -> str:
    """Return MLX's own hostfile for ranks on this machine: a list of addresses per rank."""
    return json.dumps([[f"{LOOPBACK}:{port}"] for port in ports[:size]])


def run_ring_here(argv: Sequence[str], size: int) -> int:
    """Run ``size`` ranks on this machine; return the status of the whole."""
    *ports, control = free_ports(size + 1)
    with TemporaryDirectory(prefix="mlxserve-ring-") as folder:
        path = Path(folder) / "hosts.json"
        path.write_text(ring_of(size, ports), "utf-8")
        return run_here(argv, [{"MLX_HOSTFILE": str(path)}] * size, control)


@define
class Ring(Backend):
    """Launches ranks here or, through ``mlx.launch``, on the machines of a hostfile."""

    name: ClassVar[str] = "ring"
    options: RingOptions
    here: Callable[[Sequence[str], int], int] = run_ring_here
    there: Callable[[Launch], int] = run_there

    def run_ranks(self, argv: Sequence[str], plan: RankPlan) -> int:
        """Run them here or there."""
        path = self.options.hostfile
        hosts = read_hostfile(path, FLAG) if path else None
        size = ring_size(plan.local_ranks, hosts)
        if hosts is None or hosts.is_here:
            return self.here(argv, size)
        command = server_command(argv)
        return self.there(Launch(backend="ring", hosts=hosts, port=PORT, command=command))


def ring_size(asked: int | None, hosts: Hostfile | None) -> int:
    """Return how many ranks the ring has.

    Raises:
        SettingError: Nobody says, or flag and file say different things, or it is one.
    """
    listed = len(hosts.hosts) if hosts else None
    size = count_of_ranks(asked, listed, hosts.where if hosts else "")
    if size is None:
        raise SettingError(
            f"--distributed-mode ring needs ranks: add --num-local-ranks 2 or {FLAG} FILE"
        )
    if size == 1:
        where = hosts.where if hosts else "--num-local-ranks 1"
        raise UnavailableError(f"{where} is one rank, and a ring has two or more")
    return size
