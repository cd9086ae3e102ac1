"""Where the server listens, and how that is told."""

import errno
import socket
from typing import Final

from attrs import frozen

from mlxserve_hookspecs import SettingError

BACKLOG: Final = 2048
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})
REASONS: Final = {
    errno.EADDRINUSE: "port {port} on {host} is in use; stop what listens there or choose another"
    " --port",
    errno.EACCES: "port {port} on {host} needs more rights than this user has; choose a --port"
    " above 1023",
    errno.EADDRNOTAVAIL: "{host} is not an address of this machine; set --host to one that is, or"
    " to 0.0.0.0 for all",
}


@frozen
class Address:
    """An address that clients on this machine can use."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as a client writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; of a name's several addresses, IPv4 first.

    Raises:
        SettingError: The host is unknown, or the port cannot be had.
    """
    family, address = _resolved(host, port)
    # With the protocol named, asyncio turns Nagle's algorithm off: without, each answer waited
    # 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = REASONS.get(error.errno or 0, "cannot listen on port {port} of {host}: {error}")
        raise SettingError(reason.format(host=host, port=port, error=error.strerror)) from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> Address:
    """Return where a client on this machine reaches ``listener``."""
    host, port = listener.getsockname()[:2]
    if host in ANYWHERE:
        host = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return Address(host, port)


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"the host {host!r} is unknown; set --host to an address of this machine"
        ) from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address
