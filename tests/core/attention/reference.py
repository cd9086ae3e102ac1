"""The same attention in plain mlx: gather through the table, decode the words, mask, attend."""

import mlx.core as mx

from mlxserve_hookspecs import WordFormat


def split_words(
    words: mx.array, word_format: WordFormat, key_width: int, value_width: int, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Return the keys and values, float32, that ``words`` ``[..., words]`` hold."""
    if word_format.plain:
        keys, values = words[..., :key_width], words[..., key_width:]
        return keys.astype(mx.float32), values.astype(mx.float32)
    ends = [word_format.codes(key_width), word_format.codes(key_width + value_width)]
    key_codes, value_codes, factors = mx.split(words, ends, axis=-1)
    factors = mx.view(factors, dtype).astype(mx.float32)
    groups = [width // word_format.group_size for width in (key_width, value_width)]
    ends = [groups[0], 2 * groups[0], 2 * groups[0] + groups[1]]
    scales, biases, value_scales, value_biases = mx.split(factors, ends, axis=-1)[:4]
    value_biases = value_biases[..., : groups[1]]
    size, bits = word_format.group_size, word_format.bits
    keys = mx.dequantize(mx.contiguous(key_codes), scales, biases, size, bits)
    values = mx.dequantize(mx.contiguous(value_codes), value_scales, value_biases, size, bits)
    return keys, values


def join_words(keys: mx.array, values: mx.array, word_format: WordFormat) -> mx.array:
    """Return the words of ``keys`` and ``values`` ``[..., width]``, by mlx's own quantization."""
    if word_format.plain:
        return mx.concatenate([keys, values], axis=-1)
    sides = [
        mx.quantize(mx.contiguous(x), group_size=word_format.group_size, bits=word_format.bits)
        for x in (keys, values)
    ]
    factors = mx.concatenate([x for side in sides for x in side[1:]], axis=-1)
    return mx.concatenate([sides[0][0], sides[1][0], mx.view(factors, mx.uint32)], axis=-1)


def reference_attention(
    queries: mx.array,
    plane: mx.array,
    table: mx.array,
    starts: mx.array,
    *,
    word_format: WordFormat,
    value_width: int,
    block_size: int,
    scale: float,
    window: int | None = None,
    keep: int = 0,
    sinks: mx.array | None = None,
) -> mx.array:
    """Return ``[rows, heads, width, value_width]`` in float32."""
    _, _, width, key_width = queries.shape
    at = (table[:, :, None] * block_size + mx.arange(block_size)).flatten(1)
    held = plane[at].swapaxes(1, 2)
    keys, values = split_words(held, word_format, key_width, value_width, queries.dtype)
    last = (starts[:, None] + mx.arange(width))[:, None, :, None]
    tokens = mx.arange(at.shape[1])
    seen = tokens <= last
    if window is not None:
        seen = seen & ((tokens > last - window) | (tokens < keep))
    return mx.fast.scaled_dot_product_attention(
        queries.astype(mx.float32),
        keys,
        values,
        scale=scale,
        mask=seen,
        sinks=None if sinks is None else sinks.astype(mx.float32),
    )
