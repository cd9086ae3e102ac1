"""Split a model over Macs that talk by RDMA over Thunderbolt 5.

Never run on such hardware by its authors: arguments, environment and launch line are tested against
a launcher that only looks at them.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from attrs import define, evolve, frozen

from mlxserve_hookspecs import Group, RankPlan, SettingError, hookimpl, option
from mlxserve_plugins.distributed.environment import split_address
from mlxserve_plugins.distributed.hostfile import (
    Hostfile,
    check_devices,
    is_device_matrix,
    parse_hostfile,
    read_json,
)
from mlxserve_plugins.distributed.local import UnavailableError, count_of_ranks, server_command
from mlxserve_plugins.distributed.member import Backend
from mlxserve_plugins.distributed.probe import Abilities, abilities
from mlxserve_plugins.distributed.remote import Launch, run_there

DEVICES_FLAG: Final = "--distributed-ibv-devices"
COORDINATOR_FLAG: Final = "--distributed-jaccl-coordinator"
DEVICES: Final = "MLX_IBV_DEVICES"
COORDINATOR: Final = "MLX_JACCL_COORDINATOR"
PORT: Final = 32323


@frozen
class JacclOptions:
    """Ranks joined by RDMA devices."""

    ibv_devices: Path | None = option(
        None,
        "JSON file of hosts with their RDMA devices, as mlx.distributed_config writes it",
        flag=DEVICES_FLAG,
        env=DEVICES,
    )
    coordinator: str | None = option(
        None,
        "HOST:PORT at which rank 0 meets the others",
        flag=COORDINATOR_FLAG,
        env=COORDINATOR,
    )


@define
class Jaccl(Backend):
    """Launches a rank on each of the hosts through ``mlx.launch``."""

    name: ClassVar[str] = "jaccl"
    options: JacclOptions
    probe: Callable[[str], Abilities] = abilities
    run: Callable[[Launch], int] = run_there

    def run_ranks(self, argv: Sequence[str], plan: RankPlan) -> int:
        """Run one on each host."""
        launch = jaccl_launch(self.options, argv, plan)
        if not self.probe("jaccl").is_available:
            raise UnavailableError(not_available())
        return self.run(launch)

    @hookimpl
    def join_group(self) -> Group | None:
        """Join the others, with the devices and the coordinator that the environment names."""
        if self.member.membership is None:
            return None
        import mlx.core as mx  # noqa: PLC0415 - heavy

        fill_environment(self.options)
        if not mx.distributed.is_available(self.name):
            raise UnavailableError(not_available())
        return super().join_group()


def not_available() -> str:
    """Return why there is no RDMA here."""
    return (
        "--distributed-mode jaccl: MLX finds no RDMA on this machine; it needs macOS 26.2 or "
        "newer, Thunderbolt 5 and 'rdma_ctl enable' in recovery mode; or use "
        "--distributed-mode ring"
    )


def jaccl_launch(options: JacclOptions, argv: Sequence[str], plan: RankPlan) -> Launch:
    """Return how the ranks are started.

    Raises:
        SettingError: A setting is missing, wrong, or contradicts another.
    """
    if options.ibv_devices is None:
        raise SettingError(
            f"--distributed-mode jaccl needs the devices between its hosts: add {DEVICES_FLAG} "
            "FILE, written by mlx.distributed_config --backend jaccl"
        )
    hosts = rdma_hosts(read_json(options.ibv_devices, DEVICES_FLAG), options.ibv_devices)
    count_of_ranks(plan.local_ranks, len(hosts.hosts), hosts.where)
    port = coordinator_port(options.coordinator, hosts)
    return Launch(backend="jaccl", hosts=hosts, port=port, command=server_command(argv))


def rdma_hosts(content: Any, path: Path) -> Hostfile:
    """Return the hosts of a file, each with its devices.

    Raises:
        SettingError: It has devices and no hosts, or devices that join no mesh and no ring.
    """
    where = f"{DEVICES_FLAG} {path}"
    if is_device_matrix(content):
        check_devices(content, where)
        raise SettingError(
            f"{where} names devices and no machines to start ranks on; give the hostfile that "
            "mlx.distributed_config --backend jaccl writes, or start each rank yourself"
        )
    hosts = parse_hostfile(content, where)
    devices = check_devices([host.rdma for host in hosts.hosts], f"{where}: 'rdma'")
    if len(devices) == 1:
        raise UnavailableError(f"{where} is one rank, and jaccl joins two or more")
    if not hosts.hosts[0].ips:
        raise SettingError(f"{where}: host 0 needs 'ips': the others meet it there")
    return evolve(hosts, where=where)


def coordinator_port(coordinator: str | None, hosts: Hostfile) -> int:
    """Return the port at which rank 0 meets the others.

    Raises:
        SettingError: The coordinator is no address, or another machine than rank 0.
    """
    if coordinator is None:
        return PORT
    host, port = split_address(coordinator, COORDINATOR_FLAG)
    first = hosts.hosts[0].ips[0]
    if host != first:
        raise SettingError(
            f"{COORDINATOR_FLAG} {coordinator} is not rank 0, which {hosts.where} puts at {first}"
        )
    return port


def fill_environment(options: JacclOptions) -> None:
    """Let MLX know what was set by flag; what a launcher wrote for this rank comes first."""
    if options.ibv_devices:
        os.environ.setdefault(DEVICES, str(options.ibv_devices))
    if options.coordinator:
        os.environ.setdefault(COORDINATOR, options.coordinator)
