"""The file of a run: consecutive blocks of one chain, as safetensors.

The header's ``__metadata__`` lists each block's hash, parent, tokens and checksum; a block's
tensors are ``0.0``, ``0.1`` and so on, the next one's ``1.0``, and lie side by side, so that some
blocks of a run are one sweep. Any safetensors reader can open the file.

The checksum is CRC-32: it is there to find torn writes and rotten sectors, not forgers, and it is
the only one in the standard library that keeps up with an SSD (4.8 GB/s beside 1.8 of SHA-256
and 1.0 of BLAKE2b on the machine where this was written; zlib lets go of the GIL meanwhile).
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Final

import msgspec
from attrs import field, frozen

from mlxserve_hookspecs import Block, BlockKey, CacheLayout
from mlxserve_hookspecs.caching import ITEM_BYTES

FORMAT: Final = "mlxserve-kv-run-1"
SUFFIX: Final = ".safetensors"
PREFIX_BYTES: Final = 8
HEADER_LIMIT: Final = 100_000_000
"""The longest header that safetensors itself reads."""

STATE_MARK: Final = b"/state"
"""Ends the hash of a state checkpoint, which is kept like a block; its chain mirrors the KV's."""


class TornFileError(Exception):
    """A file is not, or no longer, what was written."""


@frozen
class Shape:
    """An array's dtype, as safetensors names it, and its dimensions.

    An ``optional`` one may be missing: its tensor then has no elements.
    """

    dtype: str
    dimensions: tuple[int, ...]
    optional: bool = field(default=False, eq=False)

    @property
    def nbytes(self) -> int:
        """Its size; 0 for a dtype that nobody knows."""
        return ITEM_BYTES.get(self.dtype, 0) * prod(self.dimensions)

    @property
    def missing(self) -> "Shape":
        """What it is where it is missing."""
        return Shape(self.dtype, (0,))


@frozen
class Shapes:
    """What the blocks and the state checkpoints of a layout are made of."""

    block_size: int
    block: tuple[Shape, ...]
    state: tuple[Shape, ...]

    @classmethod
    def of(cls, layout: CacheLayout) -> "Shapes | None":
        """Return the shapes of ``layout``; ``None`` if one of its dtypes is unknown."""
        block = tuple(Shape(a.dtype, a.shape, a.optional) for a in layout.arrays)
        state = tuple(Shape(dtype, tuple(dimensions)) for dimensions, dtype in layout.state)
        known = all(shape.dtype in ITEM_BYTES for shape in (*block, *state))
        return cls(layout.block_size, block, state) if known else None

    def of_key(self, key: BlockKey) -> tuple[Shape, ...]:
        """Return the shapes of what ``key`` names."""
        return self.state if key.hash.endswith(STATE_MARK) else self.block

    @property
    def largest(self) -> int:
        """The bytes of a block or of a checkpoint, whichever has more."""
        return max(sum(shape.nbytes for shape in kind) for kind in (self.block, self.state))


class Entry(msgspec.Struct, frozen=True):
    """What the metadata says about one block."""

    hash: str
    parent: str
    tokens: list[int]
    crc32: int


class Tensor(msgspec.Struct, frozen=True):
    """A tensor as safetensors describes it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@frozen
class StoredBlock:
    """One block of a file: its identity, the checksum of its bytes, and where they begin."""

    key: BlockKey
    crc32: int
    start: int
    shapes: tuple[Shape, ...] = field(repr=False)

    @property
    def stop(self) -> int:
        """Where its bytes end in the file."""
        return self.start + sum(shape.nbytes for shape in self.shapes)

    def fits(self, shapes: Shapes) -> bool:
        """Return whether it is what a layout has."""
        mine, layout = self.shapes, shapes.of_key(self.key)
        whole = len(self.key.tokens) == shapes.block_size and len(mine) == len(layout)
        return whole and all(
            one == other or (other.optional and one == other.missing)
            for one, other in zip(mine, layout, strict=True)
        )


def state_key(key: BlockKey) -> BlockKey:
    """Return the key of the state after block ``key``."""
    return BlockKey(key.hash + STATE_MARK, key.parent + STATE_MARK, key.tokens)


def checksum(arrays: Sequence[memoryview | bytes]) -> int:
    """Return the checksum of arrays that lie one after the other."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array, crc)
    return crc


def encode(shapes: Shapes, blocks: Sequence[Block]) -> list[memoryview]:
    """Return the file of ``blocks`` as buffers to be written one after the other.

    Nothing is copied: safetensors' own writer would build the whole file in memory.

    Raises:
        ValueError: A block's bytes do not fit the layout.
    """
    header: dict[str, Any] = {}
    entries: list[Entry] = []
    buffers: list[memoryview] = []
    offset = 0
    for number, block in enumerate(blocks):
        arrays = [memoryview(array).cast("B") for array in block.arrays]
        key = block.key
        mine = [
            shape if array.nbytes or not shape.optional else shape.missing
            for shape, array in zip(shapes.of_key(key), arrays, strict=False)
        ]
        fits = len(arrays) == len(shapes.of_key(key))
        if not fits or [array.nbytes for array in arrays] != [shape.nbytes for shape in mine]:
            raise ValueError(f"block {key.hash.hex()} does not fit the layout")
        for index, shape in enumerate(mine):
            end = offset + shape.nbytes
            header[f"{number}.{index}"] = Tensor(shape.dtype, shape.dimensions, (offset, end))
            offset = end
        crc = checksum(arrays)
        entries.append(Entry(key.hash.hex(), key.parent.hex(), list(key.tokens), crc))
        buffers += arrays
    metadata = {"format": FORMAT, "blocks": msgspec.json.encode(entries).decode()}
    return [memoryview(_with_length({"__metadata__": metadata, **header})), *buffers]


def parse(raw: bytes, file_bytes: int) -> tuple[StoredBlock, ...]:
    """Return the blocks that a header, its length included, lists.

    Raises:
        TornFileError: It is none of ours, contradicts itself, or the file has another length.
    """
    try:
        header = msgspec.json.decode(raw[PREFIX_BYTES:], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__"), type=dict[str, str])
        if metadata.get("format") != FORMAT:
            raise TornFileError("not a run of KV blocks")
        entries = msgspec.json.decode(metadata["blocks"], type=list[Entry])
        tensors = {name: msgspec.json.decode(it, type=Tensor) for name, it in header.items()}
        blocks = tuple(_stored(entries, tensors, len(raw)))
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise TornFileError(f"unreadable header: {error}") from error
    if not blocks or blocks[-1].stop != file_bytes:
        raise TornFileError(f"{file_bytes} bytes long, which its header does not say")
    if any(after.key.parent != before.key.hash for before, after in pairwise(blocks)):
        raise TornFileError("blocks that do not follow each other")
    return blocks


def header_bytes(prefix: bytes, file_bytes: int) -> int:
    """Return the length of the header that begins with ``prefix``, which it includes.

    Raises:
        TornFileError: The file is too short for it.
    """
    length = PREFIX_BYTES + int.from_bytes(prefix, "little")
    if len(prefix) < PREFIX_BYTES or length > min(file_bytes, HEADER_LIMIT):
        raise TornFileError("too short for its header")
    return length


def _with_length(header: dict[str, Any]) -> bytes:
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)  # data aligned, for readers that map the file
    return len(text).to_bytes(PREFIX_BYTES, "little") + text


def _stored(
    entries: Sequence[Entry], tensors: dict[str, Tensor], start: int
) -> Iterator[StoredBlock]:
    end = 0
    for number, entry in enumerate(entries):
        mine = tuple(_numbered(tensors, number))
        at = start + end
        shapes = tuple(Shape(tensor.dtype, tensor.shape) for tensor in mine)
        for tensor, shape in zip(mine, shapes, strict=True):
            if tensor.data_offsets != (end, end + shape.nbytes) or shape.nbytes < 0:
                raise ValueError("tensors that do not lie side by side")
            end += shape.nbytes
        key = BlockKey(bytes.fromhex(entry.hash), bytes.fromhex(entry.parent), tuple(entry.tokens))
        yield StoredBlock(key, entry.crc32, at, shapes)


def _numbered(tensors: dict[str, Tensor], block: int) -> Iterator[Tensor]:
    index = 0
    while tensor := tensors.get(f"{block}.{index}"):
        yield tensor
        index += 1
