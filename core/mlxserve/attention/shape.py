"""What is static about one attention kernel, and all that follows from it."""

import math

import mlx.core as mx
from attrs import frozen

from mlxserve_hookspecs import WordFormat

WARP = 32
WARPS = 4
MAX_TILE = 8  # query vectors that a thread block keeps in registers
WIDE_TILE = 4  # up to here registers suffice for lanes that take 16 quantized numbers each
PACK_NUMBERS = 8  # what a lane quantizes
DEPTH = 4  # tokens that a lane has on their way at once
MAX_WIDTH = 8
MAX_GROUP = 16
HEAD_SIZES = (64, 80, 96, 128, 192, 256)
DTYPES = (mx.float32, mx.bfloat16, mx.float16)


@frozen(kw_only=True)
class Shape:
    """The static shape of an attention kernel; equal shapes have one source.

    Attributes:
        format: How words lie in the plane.
        heads: Query heads.
        kv_heads: Key-value heads.
        key_width: Numbers in a key.
        value_width: Numbers in a value.
        dtype: The model's dtype.
        block_size: Tokens in a block.
        width: New tokens of a row.
        window: Whether old tokens are hidden.
        sinks: Whether a logit per head joins the softmax.
        partial: Whether the context is split, and a merge follows.
    """

    format: WordFormat
    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    dtype: mx.Dtype
    block_size: int
    width: int = 1
    window: bool = False
    sinks: bool = False
    partial: bool = False

    @property
    def vectors(self) -> int:
        """Query vectors that read one key-value head of one row."""
        return self.heads // self.kv_heads * self.width

    @property
    def tiles(self) -> int:
        """Thread blocks that these are dealt to."""
        return -(-self.vectors // MAX_TILE)

    @property
    def tile(self) -> int:
        """Query vectors of one thread block."""
        return -(-self.vectors // self.tiles)

    @property
    def each(self) -> int:
        """A lane's share of a head, in numbers: 16 bytes as a rule."""
        return 16 if self.format.bits and self.tile <= WIDE_TILE else 8

    @property
    def lanes(self) -> int:
        """Lanes to a token: the next power of two, some idle at 80, 96 and 192."""
        chunks = max(self.key_width, self.value_width) // self.each
        return 1 << (chunks - 1).bit_length()

    @property
    def depth(self) -> int:
        """Tokens that a lane has on their way at once."""
        return min(DEPTH, self.lanes)

    @property
    def span(self) -> int:
        """Tokens that a thread block reads in one turn."""
        return WARPS * (WARP // self.lanes) * self.depth

    @property
    def bits(self) -> int:
        """Bits of a number as it is held."""
        return self.format.bits or self.dtype.size * 8

    @property
    def chunk(self) -> int:
        """32-bit words of one lane's share of a head."""
        return self.each * self.bits // 32

    @property
    def words(self) -> int:
        """32-bit words of a token and head."""
        words = self.format.words(self.key_width, self.value_width, self.dtype.size)
        return words * self.dtype.size // 4 if self.format.plain else words

    @property
    def value_at(self) -> int:
        """Where the value begins, in 32-bit words."""
        return self.key_width * self.bits // 32

    @property
    def wide(self) -> int:
        """32-bit words that one read may take where all are aligned."""
        return math.gcd(4, self.chunk, self.words, self.value_at)

    @property
    def shared_bytes(self) -> int:
        """Threadgroup memory of the attention kernel."""
        return WARPS // 2 * self.tile * (self.each * self.lanes + 2) * 4

    def constants(self) -> dict[str, int]:
        """Return what the kernels' text calls by name."""
        groups = self.format.group_size
        return {
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "GROUP": self.heads // self.kv_heads,
            "KEY_WIDTH": self.key_width,
            "VALUE_WIDTH": self.value_width,
            "BLOCK": self.block_size,
            "WIDTH": self.width,
            "WINDOW": int(self.window),
            "SINKS": int(self.sinks),
            "PARTIAL": int(self.partial),
            "VECTORS": self.vectors,
            "TILES": self.tiles,
            "TILE": self.tile,
            "WARPS": WARPS,
            "THREADS": WARPS * WARP,
            "EACH": self.each,
            "LANES": self.lanes,
            "LOG_LANES": self.lanes.bit_length() - 1,
            "SUBS": WARP // self.lanes,
            "DEPTH": self.depth,
            "LOG_DEPTH": self.depth.bit_length() - 1,
            "SPAN": self.span,
            "BITS": self.format.bits,
            "ITEM": self.dtype.size,
            "BFLOAT": int(self.dtype == mx.bfloat16),
            "WORDS": self.words,
            "CHUNK": self.chunk,
            "WIDE": self.wide,
            "VALUE_AT": self.value_at,
            "FACTORS_AT": self.format.codes(self.key_width + self.value_width),
            "GROUP_SIZE": groups,
            "KEY_GROUPS": self.key_width // groups,
            "VALUE_GROUPS": self.value_width // groups,
            "KEY_CHUNKS": self.key_width // PACK_NUMBERS,
            "CHUNKS": (self.key_width + self.value_width) // PACK_NUMBERS,
        }
