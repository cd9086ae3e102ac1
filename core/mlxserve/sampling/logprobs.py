"""Log-probabilities of the tokens that a batch sampled, for the rows that ask."""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np
from attrs import frozen

from mlxserve.sampling.draw import log_probabilities
from mlxserve_hookspecs import TokenLogprob


@frozen(eq=False)
class PendingLogprobs:
    """Log-probabilities on the device, not read yet.

    Attributes:
        wanted: (row, how many most probable ones), in the order of the arrays' rows.
        tokens: ``[n]`` int32.
        chosen: ``[n]`` float32.
        top: ``[n, k]`` token ids, in no order.
        values: ``[n, k]`` float32.
    """

    wanted: tuple[tuple[int, int], ...]
    tokens: mx.array
    chosen: mx.array
    top: mx.array
    values: mx.array

    def arrays(self) -> tuple[mx.array, ...]:
        """Return what to evaluate."""
        return (self.tokens, self.chosen, self.top, self.values)

    def read(self) -> Mapping[int, TokenLogprob]:
        """Wait, and return each asking row's log-probability."""
        tokens, chosen, top, values = (np.array(a) for a in self.arrays())
        return {
            row: TokenLogprob(int(tokens[at]), float(chosen[at]), _best(top[at], values[at], count))
            for at, (row, count) in enumerate(self.wanted)
        }


def pending_logprobs(
    logits: mx.array, tokens: mx.array, wanted: Sequence[tuple[int, int]]
) -> PendingLogprobs | None:
    """Return lazy log-probabilities of ``tokens`` under unprocessed ``logits``.

    Args:
        logits: ``[rows, vocab]`` as the model gave them.
        tokens: ``[rows]`` int32.
        wanted: (row, how many most probable ones) for the rows that ask.
    """
    if not wanted:
        return None
    rows = mx.array([row for row, _ in wanted], mx.int32)
    scores = log_probabilities(logits[rows])
    mine = tokens[rows]
    chosen = mx.take_along_axis(scores, mine[:, None], axis=-1)[:, 0]
    most = min(max(count for _, count in wanted), logits.shape[-1])
    if most == 0:
        nothing = mx.zeros((len(wanted), 0), mx.int32)
        return PendingLogprobs(tuple(wanted), mine, chosen, nothing, nothing.astype(mx.float32))
    top = mx.argpartition(-scores, kth=most - 1, axis=-1)[:, :most]
    return PendingLogprobs(
        tuple(wanted), mine, chosen, top, mx.take_along_axis(scores, top, axis=-1)
    )


def _best(top: np.ndarray, values: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    ranked = sorted(zip(values.tolist(), top.tolist(), strict=True), key=lambda p: (-p[0], p[1]))
    return tuple((token, value) for value, token in ranked[:count])
