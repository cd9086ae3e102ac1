"""A block as the bytes of one value, and back; what is not exactly what was asked for is torn.

Nothing that a server returns is trusted: names, tokens, lengths and a checksum over all of it must
be those of the block that was asked for. With a secret nobody who lacks it can make such a value.
"""

import hmac
from collections.abc import Sequence
from typing import Final

import msgspec
from attrs import frozen

from mlxserve_hookspecs import Block, BlockKey, CacheLayout

MAGIC: Final = b"mlxskv1\n"
DIGEST: Final = 16
LENGTH: Final = 4
"""Bytes of the header's length."""

SLACK: Final = 512
"""What a header may take beyond its tokens."""


class TornBlockError(Exception):
    """A value is not the block that was asked for."""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a value says about itself."""

    namespace: bytes
    hash: bytes
    parent: bytes
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]


@frozen
class Values:
    """Blocks of one layout as values. Safe on any thread.

    Attributes:
        layout: Theirs.
        secret: Key of the checksums.
    """

    layout: CacheLayout
    secret: bytes = b""

    @property
    def prefix(self) -> str:
        """What the names of all values of this layout begin with."""
        return f"mlxserve:1:{self.layout.namespace[:16].hex()}:"

    @property
    def most_bytes(self) -> int:
        """No value is longer."""
        arrays = self.layout.arrays
        head = SLACK + 5 * (self.layout.block_size + len(arrays))  # msgpack's longest integer
        return len(MAGIC) + DIGEST + LENGTH + head + self.block_bytes

    @property
    def block_bytes(self) -> int:
        """The arrays of a block."""
        return sum(array.nbytes for array in self.layout.arrays)

    def name(self, name: bytes) -> str:
        """Return what a block of this hash is called on the server."""
        return self.prefix + name.hex()

    def hash_in(self, name: bytes) -> bytes | None:
        """Return the hash in a value's name; ``None`` if it is none of ours."""
        prefix = self.prefix.encode()
        try:
            return bytes.fromhex(name[len(prefix) :].decode()) if name.startswith(prefix) else None
        except ValueError:
            return None

    def encode(self, block: Block) -> bytes:
        """Return the value of a block.

        Raises:
            ValueError: Its arrays do not fit the layout.
        """
        lengths = tuple(len(array) for array in block.arrays)
        if not self._fit(lengths):
            raise ValueError(f"block {block.key.hash.hex()} does not fit the layout")
        key = block.key
        header = Header(self.layout.namespace, key.hash, key.parent, key.tokens, lengths)
        head = msgspec.msgpack.encode(header)
        parts = [len(head).to_bytes(LENGTH, "little"), head, *block.arrays]
        return b"".join([MAGIC, self._digest(parts), *parts])

    def decode(self, value: object, key: BlockKey) -> Block:
        """Return the block of ``key``; its bytes are copied out of ``value``.

        Raises:
            TornBlockError: ``value`` is anything else.
        """
        if not isinstance(value, bytes):
            raise TornBlockError(f"not a value: {value}")
        body = memoryview(value)[len(MAGIC) + DIGEST :]
        if not value.startswith(MAGIC) or len(body) < LENGTH:
            raise TornBlockError("not a block")
        if not hmac.compare_digest(value[len(MAGIC) :][:DIGEST], self._digest([body])):
            raise TornBlockError("another checksum")
        end = LENGTH + int.from_bytes(body[:LENGTH], "little")
        try:
            header = msgspec.msgpack.decode(body[LENGTH:end], type=Header)
        except msgspec.MsgspecError as error:
            raise TornBlockError("unreadable header") from error
        mine = BlockKey(header.hash, header.parent, header.tokens)
        if mine != key or header.namespace != self.layout.namespace:
            raise TornBlockError("another block")
        if not self._fit(header.lengths) or end + sum(header.lengths) != len(body):
            raise TornBlockError("another length")
        return Block(key=key, arrays=_cut(body[end:], header.lengths))

    def _fit(self, lengths: Sequence[int]) -> bool:
        arrays = self.layout.arrays
        return len(lengths) == len(arrays) and all(
            length == array.nbytes or (not length and array.optional)
            for length, array in zip(lengths, arrays, strict=True)
        )

    def _digest(self, parts: Sequence[bytes | memoryview]) -> bytes:
        digest = hmac.new(self.secret, digestmod="sha256")  # in hardware, where there is any
        for part in parts:
            digest.update(part)
        return digest.digest()[:DIGEST]


def _cut(data: memoryview, lengths: Sequence[int]) -> tuple[bytes, ...]:
    arrays, at = [], 0
    for length in lengths:
        arrays.append(bytes(data[at : at + length]))
        at += length
    return tuple(arrays)
