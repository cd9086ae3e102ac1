"""Attention of a few new tokens a row over a paged pool, whatever the rows' lengths."""

from collections.abc import Callable

import mlx.core as mx
from attrs import evolve, field, frozen

from mlxserve.attention.dialect import DIALECTS, Dialect, DialectName, KernelSource, Launch, build
from mlxserve.attention.shape import (
    DTYPES,
    HEAD_SIZES,
    MAX_GROUP,
    MAX_WIDTH,
    PACK_NUMBERS,
    WARP,
    WARPS,
    Shape,
)
from mlxserve.attention.source import attend_source, merge_source, pack_source
from mlxserve_hookspecs import WordFormat

THREADS = WARPS * WARP
LEAST_PART, MOST_PARTS = 64, 64  # tokens of a part that pay its start; parts that a merge reads
EXPONENT = 0x4B000000  # of 2 to the 23rd: what is put into the mantissa counts ones
LONGEST_PART = 4096  # so that one long row does not keep the others waiting


def supports(
    word_format: WordFormat,
    *,
    heads: int,
    kv_heads: int,
    key_width: int,
    value_width: int,
    dtype: mx.Dtype,
) -> str | None:
    """Return why there is no kernel for such a layer, or ``None`` where there is one."""
    if dtype not in DTYPES:
        return f"no kernel for {dtype}"
    if not {key_width, value_width} <= set(HEAD_SIZES):
        return f"no kernel for heads of {key_width} and {value_width}"
    if heads % kv_heads or heads // kv_heads > MAX_GROUP:
        return f"no kernel for {heads} query heads over {kv_heads} key-value heads"
    if word_format.bits and (
        key_width % word_format.group_size or value_width % word_format.group_size
    ):
        return f"groups of {word_format.group_size} do not divide heads of {key_width}"
    return None


@frozen(kw_only=True)
class RaggedKernel:
    """Kernels of one kind of attention layer. Builds lazy graphs only, also inside ``mx.compile``.

    Every number that varies from pass to pass (lengths, tables, their width, the window, the scale)
    reaches the device as data: one compiled kernel serves them all.

    Attributes:
        format: How words lie in the plane.
        heads: Query heads (of this rank).
        kv_heads: Key-value heads (of this rank).
        key_width: Numbers in a key.
        value_width: Numbers in a value.
        dtype: The model's dtype.
        block_size: Tokens in a block.
        dialect: What the kernels are written in.
        build: Makes a kernel of its text; a test puts an emulation here.
    """

    format: WordFormat
    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    dtype: mx.Dtype
    block_size: int
    dialect: DialectName
    build: Callable[[Dialect, KernelSource], Launch] = build
    _built: dict[str, Launch] = field(factory=dict, init=False, eq=False, repr=False)

    def attend(
        self,
        queries: mx.array,
        plane: mx.array,
        table: mx.array,
        starts: mx.array,
        *,
        scale: float,
        window: int | None = None,
        keep: int = 0,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Return attention's output ``[rows, heads, width, value_width]``.

        Query ``j`` of a row sees the tokens before ``starts + j + 1``; with a window, the last
        ``window`` of them and the first ``keep``.

        Args:
            queries: ``[rows, heads, width, key_width]``, ``width`` from 1 to 8.
            plane: ``[slots, kv_heads, words]``, the pass's own tokens written.
            table: ``[rows, blocks]`` int32, numbers of the blocks of each row.
            starts: ``[rows]`` int32, tokens that each row held before this pass.
            scale: Multiplies the scores.
            window: Tokens that a query sees, itself among them, or ``None`` for all.
            keep: Tokens at the start that stay visible beyond the window.
            sinks: One logit per query head that joins the softmax, or ``None``.

        Raises:
            ValueError: Too many new tokens, or an array of another dtype: a kernel's text, and so
                what is kept under its name, knows only those above.
        """
        rows, _, width, _ = queries.shape
        self._check(width, queries, plane, table, starts)
        shape = self._shape(width, window=window is not None, sinks=sinks is not None)
        parts = self.parts(rows, width, table.shape[1])
        facts = mx.array([table.shape[1], parts, window or 0, keep, EXPONENT], mx.int32)
        inputs = [queries, plane, table, starts, facts, mx.array([scale], mx.float32)]
        joining = [] if sinks is None else [sinks.astype(self.dtype)]
        if parts == 1:
            return self._attend(shape, [*inputs, *joining], rows, 1)[0]
        split = evolve(shape, partial=True, sinks=False)
        return self._merge(shape, self._attend(split, inputs, rows, parts), joining)

    def pack(self, keys: mx.array, values: mx.array) -> mx.array:
        """Return the words of new tokens, ``[rows, width, kv_heads, words]``.

        They are, bit for bit, those of ``mx.quantize`` on the same device; plain ones are the
        numbers themselves.

        Args:
            keys: ``[rows, kv_heads, width, key_width]``, any number of tokens.
            values: ``[rows, kv_heads, width, value_width]``.
        """
        shape, (rows, _, width, _) = self._shape(1), keys.shape
        words = self.key_width + self.value_width if self.format.plain else shape.words
        chunks = rows * width * self.kv_heads * (self.key_width + self.value_width) // PACK_NUMBERS
        return self._kernel(pack_source(self.dialect, shape))(
            inputs=[keys, values, mx.array([rows * width, width], mx.int32)],
            grid=(-(-chunks // THREADS) * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(rows, width, self.kv_heads, words)],
            output_dtypes=[self.dtype if self.format.plain else mx.uint32],
        )[0]

    @property
    def digest(self) -> str:
        """Names the text of its kernels."""
        shape = self._shape(1)
        sources = (attend_source(self.dialect, shape), pack_source(self.dialect, shape))
        return " ".join(source.name for source in sources)

    def parts(self, rows: int, width: int, blocks: int) -> int:
        """Return into how many parts each context is split: by shapes alone, never by lengths."""
        tokens = blocks * self.block_size
        busy = rows * self.kv_heads * self._shape(width).tiles
        wanted = max(DIALECTS[self.dialect].fill // busy, -(-tokens // LONGEST_PART))
        return max(1, min(wanted, -(-tokens // LEAST_PART), MOST_PARTS))

    def _check(self, width: int, *arrays: mx.array) -> None:
        words = self.dtype if self.format.plain else mx.uint32
        dtypes = [x.dtype for x in arrays]
        if width > MAX_WIDTH or dtypes != [self.dtype, words, mx.int32, mx.int32]:
            raise ValueError(f"no kernel for {width} new tokens in {dtypes}")

    def _shape(self, width: int, *, window: bool = False, sinks: bool = False) -> Shape:
        return Shape(
            format=self.format,
            heads=self.heads,
            kv_heads=self.kv_heads,
            key_width=self.key_width,
            value_width=self.value_width,
            dtype=self.dtype,
            block_size=self.block_size,
            width=width,
            window=window,
            sinks=sinks,
        )

    def _kernel(self, source: KernelSource) -> Launch:
        if source.name not in self._built:
            self._built[source.name] = self.build(DIALECTS[self.dialect], source)
        return self._built[source.name]

    def _attend(
        self, shape: Shape, inputs: list[mx.array], rows: int, parts: int
    ) -> list[mx.array]:
        vectors = (rows, self.heads, shape.width)
        split = [(*vectors, parts, self.value_width), (*vectors, parts, 2)]
        one = [(*vectors, self.value_width)]
        launch = self._kernel(attend_source(self.dialect, shape))
        groups = rows * self.kv_heads * parts * shape.tiles
        return list(
            launch(
                inputs=inputs,
                grid=(groups * THREADS, 1, 1),
                threadgroup=(THREADS, 1, 1),
                output_shapes=split if shape.partial else one,
                output_dtypes=[mx.float32] * 2 if shape.partial else [self.dtype],
            )
        )

    def _merge(self, shape: Shape, split: list[mx.array], joining: list[mx.array]) -> mx.array:
        vectors, parts, width = split[0].shape[:-2], split[0].shape[-2], split[0].shape[-1]
        count = vectors[0] * vectors[1] * vectors[2]
        launch = self._kernel(merge_source(self.dialect, shape))
        merged = launch(
            inputs=[*split, mx.array([count, parts], mx.int32), *joining],
            grid=(-(-count * width // THREADS) * THREADS, 1, 1),
            threadgroup=(THREADS, 1, 1),
            output_shapes=[(*vectors, width)],
            output_dtypes=[self.dtype],
        )
        return merged[0]
