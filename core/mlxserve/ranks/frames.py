"""Turns as bytes: length-prefixed msgpack, typed on both sides, never pickle."""

import socket
import struct
from typing import Any, Final

import msgspec

from mlxserve.inbox import Cancel, ClearCache, Drain, Message, Submit, Turn

PREFIX: Final = struct.Struct("!I")
LARGEST: Final = 1 << 28
HEARTBEAT: Final = PREFIX.pack(0)
HERE: Final = PREFIX.pack(1) + b"\0"
"""What ranks send each other where they meet."""

KINDS: Final[dict[str, type[Any]]] = {"submit": Submit, "cancel": Cancel, "drain": Drain}


class LinkBrokenError(Exception):
    """The other side of a control link is gone, or does not speak this language."""


def encode(turn: Turn, *, stop: bool = False) -> bytes:
    """Return a frame: the leader's clock, its messages, and whether this is the end."""
    body = msgspec.msgpack.encode([turn.now, [_packed(m) for m in turn.messages], stop])
    return PREFIX.pack(len(body)) + body


def decode(body: bytes) -> tuple[Turn, bool]:
    """Return what ``encode`` was given.

    Raises:
        LinkBrokenError: The bytes are something else.
    """
    try:
        now, messages, stop = msgspec.msgpack.decode(body, type=tuple[float, list[Any], bool])
        return Turn(now, tuple(_unpacked(kind, value) for kind, value in messages)), stop
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        raise LinkBrokenError(f"a frame that is none: {error}") from error


def receive(connection: socket.socket) -> bytes:
    """Return the next frame's body, empty for a heartbeat. Blocks.

    Raises:
        LinkBrokenError: The connection ended.
    """
    (size,) = PREFIX.unpack(_exactly(connection, PREFIX.size))
    if size > LARGEST:
        raise LinkBrokenError(f"a frame of {size} bytes")
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except OSError as error:
            raise LinkBrokenError(str(error)) from error
        if not part:
            raise LinkBrokenError("the connection ended")
        parts += part
    return bytes(parts)


def _packed(message: Message) -> list[Any]:
    if isinstance(message, ClearCache):
        return ["clear", None]
    kind = next(name for name, kind in KINDS.items() if isinstance(message, kind))
    return [kind, message]


def _unpacked(kind: str, value: Any) -> Message:
    if kind == "clear":
        return ClearCache()
    made: Message = msgspec.convert(value, KINDS[kind], strict=False)
    return made
