"""The sampling parameters of a batch as arrays, and the graph that turns logits into tokens."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np
from attrs import define, field, frozen

from mlxserve.sampling.draw import draw, filter_logits, row_keys
from mlxserve_hookspecs import SamplingParams

RANKED = (128, 1024, 4096)
"""How many tokens are ranked; beyond, a partition before the sort does not pay."""

GREEDY = SamplingParams(temperature=0.0)


def base_key(seed: int, choice: int) -> int:
    """Return the 32-bit half of a row's keys that says whose they are."""
    digest = hashlib.blake2b(f"{seed}:{choice}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


@frozen(kw_only=True)
class SampledRow:
    """What sampling needs to know of one row.

    Attributes:
        params: The request's parameters.
        key: From ``base_key``.
        banned: Tokens that must not come now (end of sequence, before ``min_tokens``).
        prompt: The prompt's tokens, for the repetition penalty.
        generated: The tokens so far, for penalties.
        mask: Booleans ``[vocab]`` from a constraint.
    """

    params: SamplingParams = GREEDY
    key: int = 0
    banned: frozenset[int] = frozenset()
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    mask: mx.array | None = None


@define(eq=False)
class Penalties:
    """Penalties of a batch: what each row generated so far, kept on the device.

    Attributes:
        counts: ``[rows, vocab]`` float32, occurrences among the generated tokens.
        prompted: ``[rows, vocab]`` booleans, whether the prompt has the token.
    """

    presence: mx.array
    frequency: mx.array
    repetition: mx.array
    counts: mx.array
    prompted: mx.array

    @classmethod
    def of(
        cls,
        rows: Sequence[SampledRow],
        vocab: int,
        before: "Penalties | None" = None,
        source: Sequence[int] = (),
    ) -> "Penalties":
        """Count what the rows have so far.

        Rows that were in ``before``, at the places ``source``, keep what the device counted: it
        knows of tokens that were not read yet.
        """
        known = [
            at for at in range(len(rows)) if before is not None and source and source[at] >= 0
        ]
        new = [
            (at, row) for at, row in enumerate(rows) if row.params.penalised and at not in set(known)
        ]
        counts = mx.zeros((len(rows), vocab), mx.float32)
        prompted = mx.zeros((len(rows), vocab), mx.bool_)
        if known and before is not None:
            old = mx.array([source[at] for at in known], mx.int32)
            counts[mx.array(known, mx.int32)] = before.counts[old]
            prompted[mx.array(known, mx.int32)] = before.prompted[old]
        for at, row in new:
            mine, there = np.zeros(vocab, np.float32), np.zeros(vocab, np.bool_)
            np.add.at(mine, np.asarray(row.generated, np.int64), 1.0)
            there[np.asarray(row.prompt, np.int64)] = True
            counts[at], prompted[at] = mx.array(mine), mx.array(there)
        return cls(
            _column([r.params.presence_penalty for r in rows]),
            _column([r.params.frequency_penalty for r in rows]),
            _column([r.params.repetition_penalty for r in rows]),
            counts,
            prompted,
        )

    def apply(self, logits: mx.array) -> mx.array:
        """Return penalised logits; a row without penalties is unchanged, bit for bit."""
        seen = (self.counts > 0) | self.prompted
        scaled = mx.where(logits > 0, logits / self.repetition, logits * self.repetition)
        logits = mx.where(seen, scaled, logits)
        return logits - self.frequency * self.counts - self.presence * (self.counts > 0)

    def count(self, tokens: mx.array) -> None:
        """Add the tokens ``[rows]`` that were drawn."""
        self.counts = self.counts.at[mx.arange(tokens.shape[0]), tokens].add(1.0)


def _most(params: Sequence[SamplingParams], vocab: int) -> int | None:
    """Return how many tokens must be ranked so that every row's filters can be applied."""
    drawing = [p for p in params if not p.greedy]
    if not any(p.top_k or p.top_p < 1 for p in drawing):
        return 0
    ranks = [min(p.top_k, vocab) for p in drawing]
    if not all(ranks) or max(ranks) > RANKED[-1]:
        return None
    # Few classes, so that a row's numbers are added up alike whoever is beside it.
    return min(vocab, next(most for most in RANKED if most >= max(ranks)))


def _column(values: Iterable[float]) -> mx.array:
    return mx.array(list(values), mx.float32)[:, None]


@define(eq=False)
class SamplerBatch:
    """The rows of a batch, in batch order, ready to be sampled step after step.

    Valid as long as the same rows decode in the same places, with the same bans.

    Attributes:
        rows: The rows.
        vocab: Width of the logits.
        before: The batch before this one, whose counts go on.
        source: Each row's place in it, or -1.
    """

    rows: Sequence[SampledRow]
    vocab: int
    before: "SamplerBatch | None" = field(default=None, repr=False)
    source: Sequence[int] = ()
    _greedy: mx.array = field(init=False)
    _temperature: mx.array = field(init=False)
    _keys: mx.array = field(init=False)
    _filters: tuple[mx.array, mx.array, mx.array] | None = field(init=False, default=None)
    _most: int | None = field(init=False, default=None)
    _bias: tuple[mx.array, mx.array, mx.array] | None = field(init=False, default=None)
    _masks: dict[int, mx.array] = field(init=False, factory=dict)
    _penalties: Penalties | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        params = [row.params for row in self.rows]
        self._greedy = mx.array([p.greedy for p in params])
        self._temperature = _column(p.temperature if p.temperature > 0 else 1.0 for p in params)
        self._keys = mx.array([row.key for row in self.rows], mx.uint32)
        if any(not p.greedy and (p.top_k or p.top_p < 1 or p.min_p) for p in params):
            self._filters = (
                mx.array([min(p.top_k, self.vocab) for p in params], mx.int32),
                mx.array([p.top_p for p in params], mx.float32),
                mx.array([p.min_p for p in params], mx.float32),
            )
            self._most = _most(params, self.vocab)
        self._bias = self._sparse_bias()
        if any(p.penalised for p in params):
            old = None if self.before is None else self.before._penalties  # noqa: SLF001
            self._penalties = Penalties.of(self.rows, self.vocab, old, self.source)
        self.before, self.source = None, ()  # a chain of them would keep every count
        self._masks = {at: r.mask for at, r in enumerate(self.rows) if r.mask is not None}

    @property
    def greedy(self) -> mx.array:
        """Which rows do not draw, ``[rows]`` booleans."""
        return self._greedy

    @property
    def keys(self) -> mx.array:
        """The rows' own halves of their keys, ``[rows]`` uint32."""
        return self._keys

    @property
    def all_greedy(self) -> bool:
        """Whether no row draws."""
        return all(row.params.greedy for row in self.rows)

    def process(self, logits: mx.array, masks: Mapping[int, mx.array] | None = None) -> mx.array:
        """Return logits after penalties, bias, bans and masks; float32 if anything applies.

        Args:
            logits: ``[rows, vocab]``.
            masks: Booleans ``[vocab]`` by row, in place of the rows' own.
        """
        masks = self._masks if masks is None else masks
        if self._penalties is None and self._bias is None and not masks:
            return logits
        logits = logits.astype(mx.float32)
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._bias is not None:
            at, tokens, values = self._bias
            logits = logits.at[at, tokens].add(values)
        if masks:
            at = mx.array(list(masks), mx.int32)
            allowed = mx.stack(list(masks.values()))
            logits[at] = mx.where(allowed, logits[at], -mx.inf)
        return logits

    def sample(
        self,
        logits: mx.array,
        positions: mx.array,
        masks: Mapping[int, mx.array] | None = None,
    ) -> mx.array:
        """Return tokens ``[rows]`` int32.

        Args:
            logits: ``[rows, vocab]``.
            positions: ``[rows]``: the position that each token will take in its sequence.
            masks: As for ``process``.
        """
        logits = self.process(logits, masks)
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        if not self.all_greedy:
            keys = row_keys(self._keys, positions)
            tokens = mx.where(self._greedy, tokens, draw(self.scale(logits), keys))
        if self._penalties is not None:
            self._penalties.count(tokens)
        return tokens

    def scale(self, logits: mx.array) -> mx.array:
        """Return float32 logits after temperature and filters; greedy rows are not meaningful."""
        scaled = logits.astype(mx.float32) / self._temperature
        if self._filters is None:
            return scaled
        return filter_logits(scaled, *self._filters, self._most)

    def _sparse_bias(self) -> tuple[mx.array, mx.array, mx.array] | None:
        found: list[tuple[int, int, float]] = []
        for at, row in enumerate(self.rows):
            found += [(at, token, value) for token, value in row.params.logit_bias.items()]
            found += [(at, token, -np.inf) for token in row.banned]
        if not found:
            return None
        rows, tokens, values = zip(*found, strict=True)
        return mx.array(rows, mx.int32), mx.array(tokens, mx.int32), mx.array(values, mx.float32)
