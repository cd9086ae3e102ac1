"""Start ranks on several machines, through ``mlx.launch`` and its ``ssh``."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import field, frozen

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.distributed.environment import LEASH, common
from mlxserve_plugins.distributed.hostfile import Host, Hostfile
from mlxserve_plugins.distributed.leash import INTERRUPT, STDIN
from mlxserve_plugins.distributed.supervisor import LAUNCHER, Command, supervise

CONTROL_OFFSET: Final = 1000
"""How far the control link's port is from the first port of the ranks."""

PASSED_ON: Final = re.compile(
    r"(MLX_(?!RANK$|HOSTFILE$|IBV_DEVICES$|JACCL_)|MLXSERVE_|HF_(?!TOKEN))\w+"
)
"""Variables that ranks elsewhere get too: settings, so that all ranks have the same."""

KEYS: Final = re.compile(r"(MLXSERVE|MLX_LM_SERVER)_\w*KEY")
SHIM: Final = "mlxserve_plugins.distributed.shim"


@frozen(kw_only=True)
class Launch:
    """What is started where.

    Attributes:
        backend: In the words of ``mlx.launch``.
        hosts: One machine per rank.
        port: The first port that ranks meet at.
        command: What every rank runs.
    """

    backend: str
    hosts: Hostfile
    port: int
    command: tuple[str, ...] = field(repr=False)

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
        return supervise([Command(line, os.environ, stop=INTERRUPT)])


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
    """Return the hostfile for ``mlx.launch``, with the variables that every rank gets.

    Raises:
        SettingError: One of them is a key: it would stand in command lines of ``ssh``.
    """
    if keys := sorted(filter(KEYS.fullmatch, os.environ)):
        raise SettingError(f"${keys[0]} would be seen on other hosts; use --api-key-file there")
    settings = [f"{k}={v}" for k, v in os.environ.items() if PASSED_ON.fullmatch(k)]
    ours = {**common(len(launch.hosts.hosts), launch.control), LEASH: str(STDIN)}
    shared = [f"{name}={value}" for name, value in ours.items()]
    return {
        "backend": launch.backend,
        "envs": [*settings, *launch.hosts.envs, *shared],
        "hosts": [_entry(host) for host in launch.hosts.hosts],
    }


def launch_line(launcher: str, launch: Launch, hostfile: Path) -> tuple[str, ...]:
    """Return the command line that starts all ranks, and ends with this process."""
    how = ("--backend", launch.backend, "--hostfile", str(hostfile))
    ports = ("--starting-port", str(launch.port))
    shim = (sys.executable, "-m", SHIM)
    return (*shim, launcher, *how, *ports, "--", *launch.command)


def _entry(host: Host) -> dict[str, Any]:
    return {"ssh": host.ssh, "ips": list(host.ips), "rdma": host.rdma or []}
