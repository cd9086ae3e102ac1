"""Start ranks on several machines, through ``mlx.launch`` and its ``ssh``."""

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import field, frozen

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.distributed.environment import common
from mlxserve_plugins.distributed.hostfile import Host, Hostfile
from mlxserve_plugins.distributed.local import server_command
from mlxserve_plugins.distributed.supervisor import Command, supervise

LAUNCHER: Final = "mlx.launch"
CONTROL_OFFSET: Final = 1000
"""How far the control link's port is from the first port of the ranks."""

PASSED_ON: Final = re.compile(r"(MLX_(?!RANK$|HOSTFILE$|IBV_DEVICES$|JACCL_)|MLXSERVE_|HF_)\w+")
"""Variables that ranks elsewhere get too: settings, which flags would carry anyway."""


@frozen(kw_only=True)
class Launch:
    """What is started where.

    Attributes:
        backend: In the words of ``mlx.launch``.
        hosts: One machine per rank.
        port: The first port that ranks meet at.
        argv: The server's arguments.
    """

    backend: str
    hosts: Hostfile
    port: int
    argv: tuple[str, ...] = field(repr=False)

    @property
    def control(self) -> tuple[str, int]:
        """Where rank 0 listens for the others."""
        return self.hosts.hosts[0].ips[0], self.port + CONTROL_OFFSET


def run_there(launch: Launch) -> int:
    """Run the ranks; return the status of the whole.

    ``mlx.launch`` ends all when one ends badly, and says so on stderr.

    Raises:
        SettingError: The hosts cannot be logged in to, or ``mlx.launch`` is missing.
    """
    check_hosts(launch.hosts)
    with TemporaryDirectory(prefix="mlxserve-launch-") as folder:
        path = Path(folder) / "hosts.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(hostfile_of(launch)), "utf-8")
        line = launch_line(find_launcher(), launch, path)
        return supervise([Command(line, os.environ)])


def check_hosts(hosts: Hostfile) -> None:
    """Refuse hosts that ranks cannot be started on.

    Raises:
        SettingError: One has no name for ssh, or no address.
    """
    for at, host in enumerate(hosts.hosts):
        if host.ssh is None or not host.ips:
            lacking = "'ssh', the name to log in to" if host.ssh is None else "'ips'"
            raise SettingError(
                f"{hosts.where}: host {at} lacks {lacking}; "
                "each needs {'ssh': NAME, 'ips': [IP]}, as mlx.distributed_config writes it"
            )


def find_launcher() -> str:
    """Return the path of ``mlx.launch``: that of this Python first.

    Raises:
        SettingError: There is none.
    """
    beside = Path(sys.executable).with_name(LAUNCHER)
    found = str(beside) if beside.exists() else shutil.which(LAUNCHER)
    if not found:
        raise SettingError(f"{LAUNCHER} is not installed; it comes with pip install mlx")
    return found


def hostfile_of(launch: Launch) -> dict[str, Any]:
    """Return the hostfile for ``mlx.launch``; ours, so that no command line has the secret."""
    settings = [f"{k}={v}" for k, v in os.environ.items() if PASSED_ON.fullmatch(k)]
    shared = common(len(launch.hosts.hosts), launch.control)
    return {
        "backend": launch.backend,
        "envs": [*settings, *launch.hosts.envs, *(f"{k}={v}" for k, v in shared.items())],
        "hosts": [_entry(host) for host in launch.hosts.hosts],
    }


def launch_line(launcher: str, launch: Launch, hostfile: Path) -> tuple[str, ...]:
    """Return the command line that starts all ranks."""
    how: Sequence[str] = ("--backend", launch.backend, "--hostfile", str(hostfile))
    ports = ("--starting-port", str(launch.port))
    return (launcher, *how, *ports, "--", *server_command(launch.argv))


def _entry(host: Host) -> dict[str, Any]:
    return {"ssh": host.ssh, "ips": list(host.ips), "rdma": host.rdma or []}
