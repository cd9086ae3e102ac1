"""Draw tokens from logits: temperature, filters, and random numbers that belong to a row."""

import mlx.core as mx


def draw(logits: mx.array, keys: mx.array) -> mx.array:
    """Draw one token per row from ``softmax(logits)`` by the Gumbel-max trick.

    Args:
        logits: ``[rows, vocab]`` float32; ``-inf`` is never drawn.
        keys: ``[rows, 2]`` uint32. A row's draw depends on its own key and logits only.

    Returns:
        ``[rows]`` int32.
    """
    gumbel = -mx.log(-mx.log(uniforms(keys, logits.shape[-1])))
    return mx.argmax(logits + gumbel, axis=-1).astype(mx.int32)


def row_keys(bases: mx.array, positions: mx.array) -> mx.array:
    """Return ``[rows, 2]`` uint32 keys of (base, position)."""
    return mx.stack([bases, positions.astype(mx.uint32)], axis=-1)


def uniforms(keys: mx.array, width: int) -> mx.array:
    """Return ``[rows, width]`` float32 in [0, 1), each row from its own key."""
    return mx.vmap(lambda key: mx.random.uniform(shape=(width,), key=key))(keys)


def filter_logits(
    logits: mx.array,
    top_k: mx.array,
    top_p: mx.array,
    min_p: mx.array,
    most: int | None = None,
) -> mx.array:
    """Set what the filters drop to ``-inf``: first top-k, then top-p of the rest, then min-p.

    Tokens as probable as the last one kept are kept too, so that the result does not depend on
    the order of equals. A row whose filters are all off is unchanged, bit for bit.

    Args:
        logits: ``[rows, vocab]`` float32, temperature applied.
        top_k: ``[rows]`` int32; 0 is off.
        top_p: ``[rows]`` float32; 1 is off (nucleus sampling, Holtzman et al. 2020).
        min_p: ``[rows]`` float32; 0 is off (Nguyen et al. 2024).
        most: No row keeps more tokens than this by rank, so that no more are ranked: the largest
            top-k where every row has one, 0 where only min-p filters. ``None`` ranks all.
    """
    vocab = logits.shape[-1]
    if most is None:
        ranked = -mx.sort(-logits, axis=-1)
    elif most == 0:
        floor = logits.max(axis=-1, keepdims=True) + mx.log(min_p)[:, None]
        return mx.where(logits >= floor, logits, -mx.inf)
    else:
        ranked = -mx.sort(-mx.topk(logits, most, axis=-1), axis=-1)
    rank = mx.arange(ranked.shape[-1])[None]
    k = mx.where((top_k > 0) & (top_k < vocab), top_k, vocab)[:, None]
    probabilities = mx.softmax(mx.where(rank < k, ranked, -mx.inf), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = mx.where(top_p[:, None] < 1, before < top_p[:, None], True) & (rank < k)
    last = mx.maximum(kept.sum(axis=-1, keepdims=True) - 1, 0)
    floor = mx.take_along_axis(ranked, last, axis=-1)
    # log(0) is -inf: no floor.
    floor = mx.maximum(floor, ranked[:, :1] + mx.log(min_p)[:, None])
    return mx.where(logits >= floor, logits, -mx.inf)


def log_probabilities(logits: mx.array) -> mx.array:
    """Return ``log softmax`` of ``[rows, vocab]`` in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
