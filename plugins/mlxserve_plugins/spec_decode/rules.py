"""Which drafts stay where a row samples."""

from attrs import frozen

from mlxserve_hookspecs import Array, Verification


@frozen
class RejectionRule:
    """Speculative sampling: the output's distribution is the target's own.

    A draft stays with probability min(1, p/q); the token after the last that stays is drawn from
    max(p - q, 0), and from p if all do (Leviathan et al. 2023, Chen et al. 2023).
    """

    lossless: bool = True

    def accept(self, verification: Verification) -> tuple[Array, Array]:
        """Return accepted draft counts and weights of what follows."""
        import mlx.core as mx  # noqa: PLC0415 - the module is read by people without mlx

        target = verification.probabilities
        proposed = verification.draft_probabilities
        if proposed is None:  # a deterministic draft was certain of its tokens
            everything = mx.arange(target.shape[-1])
            proposed = (verification.drafts[..., None] == everything).astype(mx.float32)
        p, q = _of_drafts(target[:, :-1], verification), _of_drafts(proposed, verification)
        counts = _leading(verification.uniforms[:, : p.shape[1]] * q < p, verification.lengths)
        following = _at(target, counts)
        last = mx.minimum(counts, proposed.shape[1] - 1)
        residual = mx.maximum(following - _at(proposed, last), 0.0)
        refused = (counts < verification.lengths)[:, None]
        # No residual means p = q, up to rounding: then p is as good.
        weights = mx.where(refused & (residual.sum(-1, keepdims=True) > 0), residual, following)
        return counts, weights / weights.sum(-1, keepdims=True)


@frozen
class ThresholdRule:
    """A draft stays if the target finds it probable enough: faster, and another distribution.

    Attributes:
        threshold: Least probability of a draft that stays.
        lossless: False.
    """

    threshold: float
    lossless: bool = False

    def accept(self, verification: Verification) -> tuple[Array, Array]:
        """Return accepted draft counts and the target's own weights of what follows."""
        p = _of_drafts(verification.probabilities[:, :-1], verification)
        counts = _leading(p >= self.threshold, verification.lengths)
        return counts, _at(verification.probabilities, counts)


def _of_drafts(probabilities: Array, verification: Verification) -> Array:
    """Return the probability ``[rows, k]`` of each draft."""
    import mlx.core as mx  # noqa: PLC0415

    return mx.take_along_axis(probabilities, verification.drafts[..., None], axis=-1)[..., 0]


def _leading(stays: Array, lengths: Array) -> Array:
    """Return how many of ``[rows, k]`` are true from the start, within ``lengths``."""
    import mlx.core as mx  # noqa: PLC0415

    inside = mx.arange(stays.shape[1])[None] < lengths[:, None]
    return mx.cumprod((stays & inside).astype(mx.int32), axis=1).sum(axis=1).astype(mx.int32)


def _at(probabilities: Array, position: Array) -> Array:
    """Return ``[rows, vocab]``: the distribution at each row's position."""
    import mlx.core as mx  # noqa: PLC0415

    return mx.take_along_axis(probabilities, position[:, None, None], axis=1)[:, 0]
