"""What a launcher leaves in the environment of a rank, and how the rank reads it."""

from collections.abc import Mapping, MutableMapping
from secrets import token_hex
from typing import Final

from attrs import field, frozen

from mlxserve_hookspecs import Rank, SettingError

RANK: Final = "MLXSERVE_RANK"
RANKS: Final = "MLXSERVE_RANKS"
CONTROL: Final = "MLXSERVE_CONTROL"
SECRET: Final = "MLXSERVE_SECRET"
LEASH: Final = "MLXSERVE_LEASH"
MLX_RANK: Final = "MLX_RANK"
"""Read by MLX itself, and all that ``mlx.launch`` tells one rank from another by."""

OURS: Final = (RANK, RANKS, CONTROL, SECRET, LEASH)


@frozen(kw_only=True)
class Membership:
    """A rank, and what ties it to its launcher.

    Attributes:
        rank: Which one of how many.
        leash: A file descriptor that reads as ended when the launcher is gone.
    """

    rank: Rank
    leash: int | None = field(default=None)


def common(size: int, control: tuple[str, int]) -> dict[str, str]:
    """Return the variables that all ranks of one run share, with a new secret."""
    host, port = control
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return {RANKS: str(size), CONTROL: address, SECRET: token_hex(32)}


def own(rank: int) -> dict[str, str]:
    """Return the variables that only this rank has."""
    return {MLX_RANK: str(rank), RANK: str(rank)}


def take_membership(environ: MutableMapping[str, str]) -> Membership | None:
    """Take what the launcher left out of ``environ``; ``None`` where no launcher was.

    It is taken, not read: processes that a rank starts are no ranks, and get no secret.

    Raises:
        SettingError: Some of it is missing or is not what a launcher writes.
    """
    if RANKS not in environ:
        return None
    found = {name: environ.pop(name) for name in OURS if name in environ}
    rank, size = _number(RANK, found.get(RANK, environ.get(MLX_RANK))), _number(RANKS, found[RANKS])
    if not 0 <= rank < size:
        raise SettingError(f"${RANK} {rank} is not below ${RANKS} {size}; start ranks 0 to N-1")
    host, port = split_address(_need(found, CONTROL), f"${CONTROL}")
    membership = Rank(rank=rank, size=size, control=(host, port), secret=_need(found, SECRET))
    leash = _number(LEASH, found[LEASH]) if LEASH in found else None
    return Membership(rank=membership, leash=leash)


def refuse_half_a_rank(environ: Mapping[str, str]) -> None:
    """Refuse a process that MLX takes for a rank, and that has no way to the other ranks.

    Raises:
        SettingError: Somebody set ``MLX_RANK``, and not what else a rank needs.
    """
    if MLX_RANK in environ:
        raise SettingError(
            f"${MLX_RANK} makes this process a rank, but ${RANKS}, ${CONTROL} and ${SECRET} are "
            f"not set; start mlxserve once without ${MLX_RANK}: it starts its ranks itself"
        )


def split_address(text: str, where: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 host stands in brackets.

    Args:
        text: What was given.
        where: How messages call it.

    Raises:
        SettingError: It is no such thing.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not (host and colon and 0 < number < 1 << 16 and (bracketed or ":" not in host)):
        raise SettingError(f"{where} must be like 192.168.1.10:32323, not {text!r}")
    return host.strip("[]"), number


def _need(found: Mapping[str, str], name: str) -> str:
    if not found.get(name):
        raise SettingError(f"${name} is not set, though ${RANKS} is; a rank needs both")
    return found[name]


def _number(name: str, text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        raise SettingError(f"${name} must be a whole number, not {text!r}")
    return int(text)
