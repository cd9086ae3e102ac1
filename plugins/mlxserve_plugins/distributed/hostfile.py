"""Read a hostfile: where the ranks of a run are.

Two formats are in use, and both are accepted. ``mlx.launch`` wants ``{"hosts": [...]}``, or just
the list, with ``{"ssh": NAME, "ips": [IP, ...], "rdma": [null, DEVICE, ...]}`` for each host. MLX's
ring itself reads ``[["IP:PORT", ...], ...]``, a list of addresses for each rank.
"""

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.distributed.environment import split_address

LOCAL_NAMES: Final = frozenset(("localhost", ""))
Devices = tuple[tuple[tuple[str, ...], ...], ...]
"""RDMA devices of each rank to each rank: ``devices[from][to]``."""


@frozen(kw_only=True)
class Host:
    """One rank's machine.

    Attributes:
        ssh: The name under which ``ssh`` reaches it; ``None`` in the ring's own format.
        ips: Its addresses, as the other ranks reach it.
        rdma: Its devices, as they stand in the file.
    """

    ssh: str | None
    ips: tuple[str, ...]
    rdma: Any = None

    @property
    def is_here(self) -> bool:
        """Whether this machine alone can be meant."""
        names = self.ips if self.ssh is None else (self.ssh, *self.ips)
        return all(map(_is_loopback, names))


@frozen(kw_only=True)
class Hostfile:
    """Where the ranks are, in their order.

    Attributes:
        where: How messages call the file.
        hosts: One per rank.
        envs: ``NAME=VALUE`` for every rank.
    """

    where: str
    hosts: tuple[Host, ...]
    envs: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether all ranks are on this machine."""
        return all(host.is_here for host in self.hosts)


def read_json(path: Path, where: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        SettingError: There is no such file, or it holds no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingError(f"{where}: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(f"{where}: {path} is no JSON: {error}") from error


def read_hostfile(path: Path, where: str) -> Hostfile:
    """Return the hosts of a file in one of the two formats.

    Args:
        path: The file.
        where: The flag that names it.

    Raises:
        SettingError: It cannot be read, or is in neither format.
    """
    return parse_hostfile(read_json(path, where), f"{where} {path}")


def parse_hostfile(content: Any, where: str) -> Hostfile:
    """Return the hosts that ``content`` describes.

    Raises:
        SettingError: It describes none, or one of them badly.
    """
    table = content if isinstance(content, Mapping) else {"hosts": content}
    listed, envs = table.get("hosts"), table.get("envs", [])
    if not isinstance(listed, list) or not listed:
        raise SettingError(f"{where} must list hosts: [{{'ssh': NAME, 'ips': [IP]}}, ...]")
    if not isinstance(envs, list) or not all(isinstance(e, str) and "=" in e for e in envs):
        raise SettingError(f"{where}: 'envs' must be a list of 'NAME=VALUE'")
    hosts = tuple(_host(entry, f"{where}: host {at}") for at, entry in enumerate(listed))
    if len({host.ssh is None for host in hosts}) > 1:
        raise SettingError(f"{where} mixes two formats; give every host 'ssh' and 'ips'")
    return Hostfile(where=where, hosts=hosts, envs=tuple(envs))


def is_device_matrix(content: Any) -> bool:
    """Return whether ``content`` looks like MLX's file of RDMA devices, not like a hostfile."""
    return isinstance(content, list) and all(isinstance(row, list) for row in content)


def check_devices(content: Any, where: str) -> Devices:
    """Return the devices of a full mesh or a ring: JACCL can use no other.

    Raises:
        SettingError: The matrix is not square, has entries of a wrong type, or joins too few.
    """
    if not is_device_matrix(content) or not content:
        raise SettingError(f"{where} must be a square of devices: [[null, 'rdma_en5'], ...]")
    size = len(content)
    for rank, row in enumerate(content):
        if len(row) != size:
            raise SettingError(f"{where}: rank {rank} has {len(row)} entries, not one per rank")
    devices = tuple(
        tuple(_names(entry, f"{where}: rank {rank} to {to}") for to, entry in enumerate(row))
        for rank, row in enumerate(content)
    )
    for rank, row in enumerate(devices):
        if row[rank]:
            raise SettingError(f"{where}: rank {rank} has a device to itself; it must be null")
    _check_neighbours(devices, where)
    return devices


def _check_neighbours(devices: Devices, where: str) -> None:
    size = len(devices)
    for rank, row in enumerate(devices):
        for to in ((rank - 1) % size, (rank + 1) % size):
            if to != rank and not row[to]:
                raise SettingError(
                    f"{where}: rank {rank} has no device to rank {to}; "
                    "ranks must form a full mesh, or at least a ring in their order"
                )


def _names(entry: Any, where: str) -> tuple[str, ...]:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise SettingError(f"{where}: must be null, a device or a list of devices, not {entry!r}")
    return tuple(names)


def _host(entry: Any, where: str) -> Host:
    if isinstance(entry, list) and entry:
        ips = tuple(_address(address, where) for address in entry)
        return Host(ssh=None, ips=ips)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("ssh"), str) or not entry["ssh"]:
        raise SettingError(f"{where} must be {{'ssh': NAME, 'ips': [IP]}}, not {entry!r}")
    ips = entry.get("ips", [])
    if not isinstance(ips, list) or not all(isinstance(ip, str) and _is_ip(ip) for ip in ips):
        raise SettingError(f"{where}: 'ips' must be a list of addresses, not {ips!r}")
    return Host(ssh=entry["ssh"], ips=tuple(ips), rdma=entry.get("rdma"))


def _address(address: Any, where: str) -> str:
    if not isinstance(address, str):
        raise SettingError(f"{where} must list 'IP:PORT', not {address!r}")
    return split_address(address, where)[0]


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name in LOCAL_NAMES or (_is_ip(name) and ip_address(name).is_loopback)
